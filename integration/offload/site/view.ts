import { ShoalError } from '../../../base/index.ts'
import type { PeerId } from '../../../manager/index.ts'
import type { PodOrder } from '../executor.ts'
import type { App } from '../types.ts'
import { type AppRecord, appOf, type PodRecord } from './apps.ts'
import type { Copying, ImageSource } from './copying.ts'

/** Applications with their images under the names that they are stored under: as nodes get them, and as the outside sees them. */
export interface View {
  imagesOf(record: AppRecord): string[]
  order(record: AppRecord, pod: PodRecord): PodOrder
  shown(record: AppRecord): App
  /** @throws USAGE */
  checkImage(image: string): void
}

export function createView({
  self,
  images,
  copying,
}: {
  self: PeerId
  images: ImageSource
  copying: Copying
}): View {
  function imagesOf(record: AppRecord): string[] {
    return [...new Set(record.spec.pods.map(({ image }) => images.storedName(image)))]
  }

  function order(record: AppRecord, pod: PodRecord): PodOrder {
    const spec = record.spec.pods.find(({ name }) => name === pod.name)!
    return {
      app: record.id,
      pod: pod.name,
      owner: record.owner,
      manager: self,
      generation: pod.generation,
      spec: { ...spec, image: images.storedName(spec.image) },
    }
  }

  function shown(record: AppRecord): App {
    const names = imagesOf(record)
    const notes = names.map(copying.trouble).filter((trouble) => trouble !== undefined)
    return appOf(record, names.some(copying.isUnderWay), notes)
  }

  function checkImage(image: string): void {
    try {
      images.storedName(image)
    } catch (cause) {
      throw new ShoalError('USAGE', `not an image: ${(cause as Error).message}`, { cause })
    }
  }

  return { imagesOf, order, shown, checkImage }
}
