import type { Io } from './output.ts'

/** Says each step as it begins: on a terminal in place, else a line each. */
export function createStepProgress(err: Io['err']): { update(step: string | undefined): void; end(): void } {
  let told: string | undefined
  return {
    update(step) {
      if (step === undefined || step === told) return
      told = step
      err.write(err.isTTY ? `\r\x1b[K${step} …` : `${step} …\n`)
    },
    end() {
      if (told !== undefined && err.isTTY) err.write('\r\x1b[K')
    },
  }
}
