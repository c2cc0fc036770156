import type { StepTimes } from './types.ts'

/** Tells of each step as it begins, and how long each took. */
export function createSteps(onStep: (step: string) => void = () => {}): {
  run<T>(step: string, work: () => Promise<T>): Promise<T>
  seconds: StepTimes
} {
  const seconds: StepTimes = {}
  return {
    seconds,
    async run(step, work) {
      onStep(step)
      const begin = performance.now()
      try {
        return await work()
      } finally {
        seconds[step] = Math.round(performance.now() - begin) / 1000
      }
    },
  }
}
