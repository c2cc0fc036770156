import type { Response } from 'express'
import type { Log } from '../../base/index.ts'
import type { Platform } from '../../integration/index.ts'
import type { Manager } from '../../manager/index.ts'
import type { CheckpointJobs } from './checkpoint-jobs.ts'
import { tooMany } from './problem.ts'
import type { Pulls } from './pulls.ts'
import type { Scrubs } from './scrubs.ts'
import type { Storings } from './storings.ts'
import { memberView, taskView } from './views.ts'

export const EVENT_TYPES = ['task', 'members', 'pull', 'scrub', 'storing', 'checkpoint', 'migration'] as const
export type EventType = (typeof EVENT_TYPES)[number]

export interface EventOptions {
  /** Events about the same thing closer together than this (ms) are told as one. */
  everyMs?: number
  heartbeatMs?: number
  /** A reader with more unread bytes than this is dropped: it sees all anew when it comes back. */
  maxUnread?: number
  maxReaders?: number
}

/** The event stream: what is told of tasks, members and long work of all kinds, to any number of readers at a bounded cost. */
export interface Events {
  /** Answers with the stream: first all as it is, then the changes. @throws ShoalError with status 429 at too many readers */
  attach(res: Response, types: ReadonlySet<EventType>): void
  readonly readers: number
  close(): void
}

export function createEvents({
  manager,
  pulls,
  scrubs,
  storings,
  checkpoints,
  platform,
  log,
  everyMs = 200,
  heartbeatMs = 15e3,
  maxUnread = 256 * 1024,
  maxReaders = 64,
}: {
  manager: Manager
  pulls: Pulls
  scrubs: Scrubs
  storings: Storings
  checkpoints: CheckpointJobs
  platform: Pick<Platform, 'migrations' | 'onMigration'>
  log: Log
} & EventOptions): Events {
  const readers = new Map<Response, ReadonlySet<EventType>>()
  /** What changed since the last telling, by subject: progress of one blob is one entry however often it moves. */
  const pending = new Map<string, { type: EventType; data: () => unknown }>()
  let flushTimer: NodeJS.Timeout | undefined
  let heartbeat: NodeJS.Timeout | undefined
  let stopListening: (() => void)[] = []

  const frame = (type: EventType, data: unknown): string =>
    `event: ${type}\ndata: ${JSON.stringify(data)}\n\n`

  function write(res: Response, text: string): void {
    res.write(text)
    if (res.writableLength > maxUnread) {
      log.warn({ unread: res.writableLength }, 'a reader of the event stream is too slow and was dropped')
      res.destroy()
    }
  }

  function flush(): void {
    clearTimeout(flushTimer)
    flushTimer = undefined
    for (const { type, data } of pending.values()) {
      const text = frame(type, data())
      for (const [res, types] of readers) if (types.has(type)) write(res, text)
    }
    pending.clear()
  }

  function note(subject: string, type: EventType, data: () => unknown, urgent: boolean): void {
    pending.set(subject, { type, data })
    if (urgent) flush()
    else flushTimer ??= setTimeout(flush, everyMs)
  }

  const everyMember = (): unknown => manager.members.list().map(memberView)

  /** Only while somebody reads: an idle daemon does no work for events. */
  function listen(): void {
    heartbeat = setInterval(() => {
      for (const res of readers.keys()) write(res, ': still here\n\n')
    }, heartbeatMs)
    stopListening = [
      manager.onEvent((event) => {
        if (event.type === 'members') return note('members', 'members', everyMember, false)
        const { task } = event
        note(`task ${task.digest}`, 'task', () => taskView(task, manager), task.state !== 'running')
      }),
      pulls.onChange((pull) => note(`pull ${pull.id}`, 'pull', () => pull, pull.state !== 'running')),
      scrubs.onChange((scrub) => note('scrub', 'scrub', scrubs.status, scrub.state !== 'running')),
      storings.onChange((one) => note(`storing ${one.id}`, 'storing', () => one, one.state !== 'running')),
      platform.onMigration((one) =>
        note(`migration ${one.id}`, 'migration', () => one, one.state !== 'running'),
      ),
      checkpoints.onChange((one) =>
        note(`checkpoint ${one.id}`, 'checkpoint', () => one, one.state !== 'running'),
      ),
    ]
  }

  function rest(): void {
    clearInterval(heartbeat)
    clearTimeout(flushTimer)
    flushTimer = undefined
    pending.clear()
    for (const stop of stopListening) stop()
    stopListening = []
  }

  return {
    attach: (res, types) => {
      if (readers.size >= maxReaders) {
        throw tooMany(`${maxReaders} readers follow the events already`)
      }
      res.status(200).set({ 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store' })
      res.flushHeaders()
      readers.set(res, types)
      if (readers.size === 1) listen()
      res.on('close', () => {
        if (readers.delete(res) && readers.size === 0) rest()
      })
      res.on('error', () => res.destroy())
      if (types.has('members')) write(res, frame('members', everyMember()))
      if (types.has('task'))
        for (const task of manager.tasks()) write(res, frame('task', taskView(task, manager)))
      if (types.has('pull')) for (const pull of pulls.list()) write(res, frame('pull', pull))
      if (types.has('scrub') && scrubs.status().state !== 'never') write(res, frame('scrub', scrubs.status()))
      if (types.has('storing')) for (const one of storings.list()) write(res, frame('storing', one))
      if (types.has('checkpoint')) for (const one of checkpoints.list()) write(res, frame('checkpoint', one))
      if (types.has('migration')) {
        platform
          .migrations()
          .then((migrations) => migrations.list().map((one) => write(res, frame('migration', one))))
          .catch((error) => log.warn({ error: String(error) }, 'migrations cannot be listed'))
      }
    },
    get readers() {
      return readers.size
    },
    close: () => {
      rest()
      for (const res of readers.keys()) res.end()
      readers.clear()
    },
  }
}
