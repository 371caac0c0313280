/*
 * A process that stops well
 *
 * What the API and the worker have in common as processes: start, say so to the launcher if there is one, finish what
 * is in hand on SIGTERM, SIGINT or when the launcher is gone, and leave in bounded time.
 */
const STOP_LIMIT_MS = 15_000

/** @param start answers how to stop again, and where the process can be reached, if anywhere. */
export async function runUntilStopped(
  start: () => Promise<{ stop: () => Promise<void>; url?: string | undefined }>,
): Promise<void> {
  let stopping = false
  const signals = ['SIGTERM', 'SIGINT', 'disconnect'] as const
  const leave = () => process.exit(0)
  for (const signal of signals) process.on(signal, leave)

  try {
    const { stop, url } = await start()
    for (const signal of signals) {
      process.off(signal, leave)
      process.on(signal, () => {
        if (stopping) return
        stopping = true
        // Closing waits for stores that may be down: what was in hand then is done again by whoever comes next.
        setTimeout(() => process.exit(1), STOP_LIMIT_MS).unref()
        stop().then(
          () => process.exit(0),
          (error: unknown) => {
            console.error(error)
            process.exit(1)
          },
        )
      })
    }
    process.send?.({ ready: true, url })
  } catch (error) {
    console.error(error instanceof Error ? error.message : error)
    process.exit(1)
  }
}
