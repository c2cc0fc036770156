import type { Log } from '../../base/index.ts'
import { hostFacts, hostNeeds, unfit, unmovable } from '../checkpoint/index.ts'
import type { Recreation } from '../runtime/types.ts'
import { ANNOTATION, restoreConfig, skipInFlight } from './criu-config.ts'
import { memoryOf } from './memory.ts'
import type { Judge, Parts } from './parts.ts'

/** Finds the base image in the swarm or upstream. @throws why it cannot be had */
export type FindImage = (
  image: NonNullable<Recreation['image']>,
  signal: AbortSignal,
) => Promise<{ reference: string }>

/** Judges by what is really on this machine. */
export function createJudge(deps: {
  dir: string
  runtime: Parts['runtime']
  findImage: FindImage | undefined
  log: Log
}): Judge {
  const { dir, runtime, findImage, log } = deps
  return {
    async leaving(container, driver, { signal }) {
      await skipInFlight(log)
      const facts = await driver.facts(signal)
      const unable = facts.can.checkpoint ? [] : [`${facts.name} cannot dump here: ${facts.why.join(', ')}`]
      // Connections are dumped in any case, and closed at the target unless they are to be kept.
      const reasons = [...unable, ...(await unmovable(container, { tcpEstablished: true, signal }))]
      const size = container.pid === undefined ? 0 : await memoryOf(container.pid)
      return { reasons, needs: await hostNeeds(facts), size }
    },
    async coming({ recreation, container, needs, size }, { place, signal }) {
      const driver = await runtime(container.runtime).catch(() => undefined)
      let image = recreation.image?.reference
      let imageLacks: string | undefined
      if (recreation.image && findImage) {
        await findImage(recreation.image, signal).then(
          ({ reference }) => {
            image = reference
          },
          (error: Error) => {
            imageLacks = error.message
          },
        )
      }
      const { name } = container
      const host = await hostFacts({
        recreation,
        name,
        runtime: driver,
        dir,
        imageLacks,
        signal,
        place,
      })
      const reasons = unfit({ needs, host, recreation, name, runtime: container.runtime, size })
      return { reasons, image }
    },
    async adapted(recreation, { tcpEstablished }) {
      const path = await restoreConfig(dir, tcpEstablished)
      const { spec } = recreation
      return {
        ...recreation,
        spec: { ...spec, annotations: { ...spec.annotations, [ANNOTATION]: path } },
      }
    },
  }
}
