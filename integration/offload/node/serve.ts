import { isShoalError, type Log, ShoalError } from '../../../base/index.ts'
import type { PodReport } from '../executor.ts'
import type { Measures } from '../measures.ts'
import { fields, list, readImages, readOrder, readRef, text } from '../messages.ts'
import type { Talk } from '../talk.ts'
import type { NodeExecutor } from './executor.ts'

const ANSWER_MS = 5000
const ASK_MS = 20e3

/** Lets managers of the cluster give orders to this node's executor, and tells them what becomes of their pods. */
export function serveExecutor(deps: {
  talk: Talk
  executor: NodeExecutor
  measures: Measures
  log: Log
  askMs?: number
}): { close(): void } {
  const { talk, executor, measures, log, askMs = ASK_MS } = deps
  const closing = new AbortController()

  talk.handle('facts', (_peer, body, signal) => measures.measure(readImages(fields(body).images), signal))
  talk.handle('ensure', async (_peer, body) => executor.ensure(readOrder(body)))
  talk.handle('remove', (_peer, body, signal) => executor.remove(readRef(body), signal))
  talk.handle('reports', async (_peer, body) => {
    const manager = text(fields(body).manager, 128)
    return executor.reports().filter((report) => report.manager === manager)
  })
  talk.handle('move', async (_peer, body, signal) => {
    await executor.move(readRef(body), text(fields(body).to, 128), signal)
    return undefined
  })

  function tell(report: PodReport): void {
    const { signal } = closing
    // Managers ask now and then by themselves: what is lost here is only late.
    talk.ask(report.manager, 'report', report, { timeoutMs: ANSWER_MS, signal }).catch((error) => {
      log.debug({ err: error, manager: report.manager }, 'a report did not get through')
    })
  }
  const stop = executor.onReport(tell)

  /** Pods that their manager does not know, or knows to be elsewhere, go: it forgot them, or placed them anew while this node was away. */
  async function ask(): Promise<void> {
    const byManager = Map.groupBy(executor.reports(), ({ manager }) => manager)
    for (const [manager, reports] of byManager) {
      const pods = reports.map(({ app, pod, generation }) => ({ app, pod, generation }))
      try {
        const answer = await talk.ask(manager, 'known', pods, {
          timeoutMs: ANSWER_MS,
          signal: closing.signal,
        })
        const unknown = list(fields(answer).unknown, readRef)
        const current = new Set(pods.map(({ app, pod }) => `${app}/${pod}`))
        executor.forget(unknown.filter(({ app, pod }) => current.has(`${app}/${pod}`)))
      } catch (error) {
        if (!isShoalError(error, 'ABORTED'))
          log.debug({ err: error, manager }, 'the manager of pods does not answer')
      }
    }
  }
  const timer = setInterval(() => void ask(), askMs)
  timer.unref()
  void ask()

  return {
    close() {
      closing.abort(new ShoalError('ABORTED', 'the node is being stopped'))
      clearInterval(timer)
      stop()
    },
  }
}
