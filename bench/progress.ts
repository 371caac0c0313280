/*
 * Progress: a bar on a terminal, a plain line every so often elsewhere.
 */
import { SingleBar } from 'cli-progress'

export type Progress = { step(): void; done(): void }

export function startProgress(what: string, total: number): Progress {
  const began_ms = performance.now()
  const bar = process.stdout.isTTY
    ? new SingleBar({
        format: `  ${what.padEnd(28)} [{bar}] {value}/{total}`,
        barsize: 30,
        hideCursor: true,
        clearOnComplete: true,
      })
    : undefined
  bar?.start(total, 0)
  let value = 0
  return {
    step: () => {
      value += 1
      bar?.increment()
      if (!bar && value % Math.ceil(total / 4) === 0 && value < total) console.log(`  ${what}: ${value} of ${total}`)
    },
    done: () => {
      bar?.stop()
      const duration_s = (performance.now() - began_ms) / 1000
      const rate = Math.round(value / duration_s).toLocaleString('en')
      console.log(`  ${what}: ${value.toLocaleString('en')} in ${duration_s.toFixed(1)} s, ${rate}/s`)
    },
  }
}
