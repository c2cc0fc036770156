import type { PeerId } from '../../../manager/index.ts'
import type { PodOrder, PodRef } from '../executor.ts'

/** Labels of a pod's container: who looks at it later knows whose it is. */
export const LABELS = {
  app: 'shoal.app',
  pod: 'shoal.pod',
  owner: 'shoal.owner',
  manager: 'shoal.manager',
  generation: 'shoal.generation',
  node: 'shoal.node',
} as const

/** The name of a pod's container and network; it says whose it is, and there is one of it. */
export function containerName({ app, pod }: PodRef): string {
  return `shoal-${app}-${pod}`
}

export function labelsOf(order: PodOrder, node: PeerId): Record<string, string> {
  return {
    [LABELS.app]: order.app,
    [LABELS.pod]: order.pod,
    [LABELS.owner]: order.owner,
    [LABELS.manager]: order.manager,
    [LABELS.generation]: `${order.generation}`,
    [LABELS.node]: node,
  }
}

export function refOf(labels: Record<string, string>): PodRef {
  return { app: labels[LABELS.app] ?? '', pod: labels[LABELS.pod] ?? '' }
}
