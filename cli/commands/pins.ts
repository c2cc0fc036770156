import { formatBytes } from '../../base/index.ts'
import type { ImageInfo } from '../api/types.ts'
import { print, printJson, shortDigest } from '../output.ts'
import { type ClientFlags, type Context, withClient } from './context.ts'

/** `shoal pin` */
export async function pinCommand(context: Context, reference: string, flags: ClientFlags): Promise<void> {
  const { io, signal } = context
  await withClient(context, flags, async (client) => {
    const image = await client.send<ImageInfo>('POST', '/api/v1/pins', { reference }, { signal })
    if (flags.json) return printJson(io, image)
    const size = `${formatBytes(image.size)} in ${image.blobs} blobs`
    const missing = image.complete ? '' : `, ${formatBytes(image.size - image.bytesHere)} of it not here yet`
    print(io, [`pinned ${image.reference} ${shortDigest(image.digest)}: ${size}${missing}`])
  })
}

/** `shoal unpin` */
export async function unpinCommand(context: Context, reference: string, flags: ClientFlags): Promise<void> {
  const { io, signal } = context
  await withClient(context, flags, async (client) => {
    const path = `/api/v1/pins?reference=${encodeURIComponent(reference)}`
    await client.send('DELETE', path, undefined, { signal })
    if (flags.json) printJson(io, { reference, pinned: false })
    else print(io, [`${reference} is not pinned any more`])
  })
}
