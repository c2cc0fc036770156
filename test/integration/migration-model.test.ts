import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isShoalError } from '../../base/index.ts'
import { isEnded } from '../../integration/migration/index.ts'
import { CALM, createWorld, type Faults, randomFrom } from './migration-twins.ts'

const HOUR = 3600e3

/** A migration in a world with these faults, until both sides have ended it and both daemons are up. */
async function migrate(seed: number, faults: Faults, offAt?: number) {
  const world = createWorld({ seed, faults })
  const { s, t, time, entries } = world
  await world.boot(s)
  await world.boot(t)
  const asked = s.life
  let refused = false
  s.engine?.start({ container: 'work', runtime: 'runc', to: 't' }).catch(() => {
    refused = true
  })
  const off = { asked: false, heard: false }
  if (offAt !== undefined) {
    void time.clock.sleep(offAt).then(async () => {
      const id = entries().find(({ role }) => role === 'source')?.id
      if (id === undefined || !s.life.alive) return
      off.asked = true
      await s.engine?.cancel(id).then(
        () => {
          off.heard = true
        },
        // Too late.
        (error) => assert.ok(isShoalError(error, 'BUSY')),
      )
    })
  }
  // Whoever dies before it is written down has promised nothing.
  const begun = (): boolean => entries().length > 0 || refused || s.life !== asked
  const done = (): boolean => s.life.alive && t.life.alive && begun() && entries().every(isEnded)
  let ended = await time.run(done, HOUR)
  // What comes late comes now, and what a runtime made for a dead daemon is swept.
  if (ended) {
    await time.run(() => false, 900e3)
    ended = await time.run(done, HOUR)
  }
  return { world, ended, off }
}

function story(seed: number, world: ReturnType<typeof createWorld>): string {
  return `seed ${seed}\n${world.trace.join('\n')}\n${JSON.stringify(world.entries(), null, 1)}`
}

function assertOneCopy(seed: number, { world, ended }: Awaited<ReturnType<typeof migrate>>): void {
  assert.deepEqual(world.violations, [], story(seed, world))
  assert.ok(ended, `it has not ended: ${story(seed, world)}`)
  const copies = world.copies()
  assert.equal(copies.length, 1, `${JSON.stringify(copies)} ${story(seed, world)}`)
  assert.equal(copies[0]?.state, 'running', story(seed, world))
}

test('without faults the container runs at the target, and both ends know', async () => {
  const moved = await migrate(1, CALM)
  assertOneCopy(1, moved)
  assert.equal(moved.world.copies()[0]?.host, 't')
  const [source, target] = moved.world.entries()
  assert.equal(source?.state, 'done')
  assert.equal(target?.state, 'done')
  assert.ok((source?.downtimeMs ?? 0) > 0)
  const { startedAt, restoredAt, endedAt } = target!
  assert.ok(restoredAt !== undefined && startedAt < restoredAt && restoredAt <= (endedAt ?? 0))
  assert.ok((source?.restoredAt ?? 0) >= restoredAt)
  assert.ok(source?.rounds.at(-1)?.frozen)
})

test('an unhealthy copy is removed, and the source goes on', async () => {
  const moved = await migrate(2, { ...CALM, unhealthy: true })
  assertOneCopy(2, moved)
  assert.equal(moved.world.copies()[0]?.host, 's')
  assert.deepEqual(
    moved.world.entries().map(({ state }) => state),
    ['rolled-back', 'rolled-back'],
  )
  assert.match(moved.world.entries()[0]?.reason ?? '', /not healthy/)
})

for (const side of ['source', 'target'] as const) {
  test(`a target that died for good while it started: a person says that the ${side} is to run`, async () => {
    const world = createWorld({ seed: 3, faults: CALM })
    const { s, t, time, entries, copies } = world
    await world.boot(s)
    await world.boot(t)
    const started = s.engine?.start({ container: 'work', runtime: 'runc', to: 't' })
    // The restore goes on after its daemon's death, so that the copy runs and nobody hears of it.
    const runs = (): boolean => copies().some(({ host, state }) => host === 't' && state === 'running')
    assert.ok(await time.run(runs, HOUR))
    t.staysDown = true
    world.die(t, t.life, 'for good')
    assert.ok(await time.run(() => entries().some(({ state }) => state === 'undecided'), HOUR))
    const id = (await started)?.id ?? ''
    const record = s.engine?.get(id)
    assert.match(record?.reason ?? '', new RegExp(`shoal migrations decide ${id} ${side}`))
    assert.ok(copies().every(({ host, state }) => host === 't' || state === 'paused'))
    // The machine at the target is off.
    if (side === 'source') t.boxes.clear()
    void s.engine?.decide(id, side)
    const ended = (): boolean => entries().some((each) => each.role === 'source' && isEnded(each))
    assert.ok(await time.run(ended, HOUR))
    assert.equal(s.engine?.get(id)?.state, side === 'source' ? 'rolled-back' : 'done')
    assert.deepEqual(
      copies().map(({ host, state }) => `${host} ${state}`),
      [side === 'source' ? 's running' : 't running'],
    )
    // And when it comes back it goes by what was decided.
    void world.boot(t)
    assert.ok(await time.run(() => t.life.alive && entries().every(isEnded), HOUR))
    assert.equal(copies().length, 1)
    assert.deepEqual(world.violations, [])
  })
}

test('whatever dies, is lost, repeated, late or fails: never two run, and one does at the end', async () => {
  for (let seed = 0; seed < Number(process.env.SHOAL_SEEDS ?? 400); seed++) {
    const random = randomFrom(seed * 7919)
    const faults: Faults = {
      crash: random() * 0.08,
      crashes: Math.floor(random() * 6),
      lose: random() < 0.5 ? 0 : random() * 0.2,
      repeat: random() < 0.5 ? 0 : random() * 0.3,
      fail: random() < 0.5 ? 0 : random() * 0.1,
      unhealthy: random() < 0.15,
      cuts: random() < 0.5 ? [] : [{ at: random() * 20e3, forMs: 20e3 }],
    }
    assertOneCopy(seed, await migrate(seed, faults))
  }
})

test('called off at any moment: it never left, and nothing is left of it, or it was too late', async () => {
  const seen = { off: 0, late: 0 }
  for (let seed = 2000; seed < 2300; seed++) {
    const random = randomFrom(seed * 7919)
    const faults: Faults = {
      ...CALM,
      crash: random() < 0.5 ? 0 : 0.03,
      crashes: 2,
      lose: random() < 0.7 ? 0 : random() * 0.2,
      repeat: random() < 0.7 ? 0 : random() * 0.3,
      cuts: random() < 0.8 ? [] : [{ at: random() * 20e3, forMs: 20e3 }],
    }
    const moved = await migrate(seed, faults, random() * 15e3)
    const { world, off } = moved
    assertOneCopy(seed, moved)
    const source = world.entries().find(({ role }) => role === 'source')
    if (off.heard) {
      seen.off++
      assert.equal(source?.state, 'called-off', story(seed, world))
      assert.deepEqual(
        world.copies().map(({ host }) => host),
        ['s'],
        story(seed, world),
      )
      assert.ok(!world.trace.some((line) => /s: c0ffee is paused/.test(line)), story(seed, world))
    } else if (off.asked && faults.crash === 0) {
      seen.late++
      assert.notEqual(source?.state, 'called-off', story(seed, world))
    }
  }
  assert.ok(seen.off > 50 && seen.late > 20, JSON.stringify(seen))
})

test('a daemon that dies at any single point, on either side', async () => {
  // The chance is one where the count of crashes decides: a crash at the n-th point that is reached.
  for (let seed = 1000; seed < 1300; seed++) {
    assertOneCopy(seed, await migrate(seed, { ...CALM, crash: 0.02, crashes: 1 }))
  }
})
