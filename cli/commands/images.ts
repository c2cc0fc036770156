import { formatBytes } from '../../base/index.ts'
import type { ImageInfo } from '../api/types.ts'
import { formatAgo, percent, print, printJson, shortDigest, table } from '../output.ts'
import { type ClientFlags, type Context, withClient } from './context.ts'

export function imageLines(images: ImageInfo[], now: number): string[] {
  return table(
    [
      { title: 'IMAGE' },
      { title: 'DIGEST' },
      { title: 'PLATFORM' },
      { title: 'SIZE', right: true },
      { title: 'HERE', right: true },
      { title: 'KEPT', right: true },
      { title: 'BORROWED', right: true },
      { title: 'USED' },
      { title: 'PINNED' },
    ],
    images.map((image) => [
      image.reference,
      shortDigest(image.digest),
      image.platforms.join(',') || '-',
      formatBytes(image.size),
      image.complete ? 'all' : percent(image.bytesHere, image.size),
      image.bytesKept > 0 ? percent(image.bytesKept, image.size) : '-',
      image.bytesBorrowed > 0 ? percent(image.bytesBorrowed, image.size) : '-',
      formatAgo(image.usedAt, now),
      image.pinned ? 'pinned' : '',
    ]),
  )
}

/** `shoal images` */
export async function imagesCommand(context: Context, flags: ClientFlags): Promise<void> {
  await withClient(context, flags, async (client) => {
    const images = await client.get<ImageInfo[]>('/api/v1/images', { signal: context.signal })
    if (flags.json) return printJson(context.io, images)
    print(context.io, images.length > 0 ? imageLines(images, Date.now()) : ['no images yet'])
  })
}
