import { formatBytes } from '../../base/index.ts'
import type { ImageView } from '../api/types.ts'
import { formatAgo, percent, print, printJson, shortDigest, table } from '../output.ts'
import { type ClientFlags, type Context, withClient } from './context.ts'

export function imageLines(images: ImageView[], now: number): string[] {
  return table(
    [
      { title: 'IMAGE' },
      { title: 'DIGEST' },
      { title: 'PLATFORM' },
      { title: 'SIZE', right: true },
      { title: 'HERE', right: true },
      { title: 'KEPT', right: true },
      { title: 'BORROWED', right: true },
      { title: 'SITE', right: true },
      { title: 'COPIES', right: true },
      { title: 'OFFLINE' },
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
      image.bytesBorrowed ? percent(image.bytesBorrowed, image.size) : '-',
      image.stored ? formatBytes(image.stored.bytesInSite) : '-',
      image.stored ? copiesOf(image.stored) : '-',
      image.startable ? 'yes' : 'no',
      image.usedAt === undefined ? '-' : formatAgo(image.usedAt, now),
      image.pinned ? 'pinned' : '',
    ]),
  )
}

/** `2`, or `1 of 2` where nodes are missing. */
function copiesOf({ copies, copiesNow }: NonNullable<ImageView['stored']>): string {
  return copiesNow < copies ? `${copiesNow} of ${copies}` : String(copiesNow)
}

/** `shoal images` */
export async function imagesCommand(context: Context, flags: ClientFlags): Promise<void> {
  await withClient(context, flags, async (client) => {
    const images = await client.get<ImageView[]>('/api/v1/images', { signal: context.signal })
    if (flags.json) return printJson(context.io, images)
    print(context.io, images.length > 0 ? imageLines(images, Date.now()) : ['no images yet'])
  })
}
