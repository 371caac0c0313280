/*
 * Keeper
 *
 * Keeps a part of the service running: started again when it ends by itself, after a pause that grows while it keeps
 * ending and is bounded, so that a part that cannot run burns no processor and is back soon after its trouble is over.
 *
 * Next: api/main.ts and worker/main.ts, the parts.
 */
import { fork } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

export type Running = {
  /** Fulfilled when it has ended, with the reason; see CLEAN. */
  exited: Promise<string>
  /** Finishes what is in hand. */
  stop(): Promise<void>
  /** Does not. */
  kill(): void
}

export type Kept<T> = {
  /** What the first start gave. */
  first: T
  /** Answers how it ended; undefined if it was not running. Abort the part's signal before: it would come back. */
  stop(): Promise<string | undefined>
  kill(): void
}

export type Part<T> = {
  name: string
  start: () => Promise<T>
  /** Attempts at the first start before giving up: for a part that cannot start, its own message is better news. */
  attempts: number
  log: (line: string) => void
  /** Aborted when the whole service stops: nothing is started again from then on. */
  signal: AbortSignal
}

export const CLEAN = 'exit code 0'

const FIRST_PAUSE_MS = 500
const LONGEST_PAUSE_MS = 10_000
/** Who ran that long is taken to be well, and its next end to be a new trouble. */
const WELL_MS = 60_000

/** A child gives up draining by itself after 15 s (process.ts); only one that hangs is killed. */
const STOP_LIMIT_MS = 20_000
const SLOW_MS = 10_000

/** @throws what the last attempt at the first start threw. */
export async function keep<T extends Running>(part: Part<T>): Promise<Kept<T>> {
  const { name, start, log, signal } = part
  const first = await firstStart(part)
  let running: T | undefined = first
  const watch = async () => {
    let pause_ms = FIRST_PAUSE_MS
    for (;;) {
      const began_ms = performance.now()
      const reason = await (async () => {
        running ??= await start()
        // A stop that came while it was starting found nothing to stop.
        if (signal.aborted) await running.stop()
        return running.exited
      })().catch((error: unknown) => (error instanceof Error ? error.message : String(error)))
      const ran = running !== undefined
      running = undefined
      if (signal.aborted) return ran ? reason : undefined
      if (performance.now() - began_ms > WELL_MS) pause_ms = FIRST_PAUSE_MS
      log(`${name} ended (${reason}), starting it again in ${pause_ms / 1000} s`)
      await pause(pause_ms, signal)
      if (signal.aborted) return undefined
      pause_ms = Math.min(pause_ms * 2, LONGEST_PAUSE_MS)
    }
  }
  const watched = watch()
  return {
    first,
    stop: async () => {
      await running?.stop()
      return watched
    },
    kill: () => running?.kill(),
  }
}

async function firstStart<T extends Running>({ name, start, attempts, log, signal }: Part<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      signal.throwIfAborted()
      return await start()
    } catch (error) {
      if (signal.aborted || attempt === attempts) throw error
      log(`${name} did not start (${error instanceof Error ? error.message : error}), trying again`)
      await pause(FIRST_PAUSE_MS * 2 ** attempt, signal)
    }
  }
}

const pause = (pause_ms: number, signal: AbortSignal): Promise<void> =>
  sleep(pause_ms, undefined, { signal }).catch(() => undefined)

/**
 * Bounded memory for little time. What is alive when the nursery is full is copied, and in an API that is every request in
 * hand: the smaller the nursery, the more of its time that takes. A worker has little in hand. The old space is collected
 * when it has grown by a tenth, instead of by whatever Node finds worth it, and by one thread beside the main one instead
 * of four: the processors are for the other parts. package.json says the same for the parts started alone.
 */
export const NODE_FLAGS = {
  api: ['--max-semi-space-size=16', '--heap-growing-percent=10', '--v8-pool-size=1'],
  worker: ['--max-semi-space-size=4', '--heap-growing-percent=10', '--v8-pool-size=1'],
}

/**
 * The environment of each part. Node keeps what it has compiled: from its second start on, a part starts in two thirds of
 * the time and 20 MB smaller, since nothing has to be stripped of its types. And glibc has one pool of memory for all
 * threads, instead of giving each its own to fragment. package.json says the same.
 */
export const NODE_ENVIRONMENT = {
  NODE_COMPILE_CACHE: fileURLToPath(new URL('../node_modules/.cache/node', import.meta.url)),
  MALLOC_ARENA_MAX: '1',
}

export type Child = Running & { url: string | undefined }

/**
 * A Node process that says `{ready: true, url?}` over IPC when it is. It drains on SIGTERM, and when the channel closes:
 * so no launcher, however it ends, leaves one behind.
 *
 * @throws Error with the reason if it ends before it is ready.
 */
export async function startChild(
  name: keyof typeof NODE_FLAGS,
  file: string,
  env: NodeJS.ProcessEnv,
  { log, signal }: Pick<Part<Child>, 'log' | 'signal'>,
): Promise<Child> {
  // Detached, in a process group of its own: a terminal's Ctrl-C reaches the launcher only, which knows the order.
  const child = fork(file, [], {
    env: { ...NODE_ENVIRONMENT, ...env },
    detached: true,
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    execArgv: NODE_FLAGS[name],
  })
  const exited = new Promise<string>((done) => {
    child.once('error', (error) => done(error.message))
    child.once('exit', (code, how) => done(how ?? `exit code ${code}`))
  })
  const stop = async () => {
    child.kill('SIGTERM')
    const hangs = setTimeout(() => child.kill('SIGKILL'), STOP_LIMIT_MS)
    await exited
    clearTimeout(hangs)
  }
  const slow = setTimeout(() => log(`still waiting for the ${name} to be ready`), SLOW_MS)
  const giveUp = () => void stop()
  signal.addEventListener('abort', giveUp)
  try {
    const url = await new Promise<string | undefined>((done, failed) => {
      child.on('message', (message) => {
        if (isReady(message)) done(message.url)
      })
      void exited.then((reason) => failed(new Error(reason)))
    })
    return { url, exited, stop, kill: () => void child.kill('SIGKILL') }
  } finally {
    clearTimeout(slow)
    signal.removeEventListener('abort', giveUp)
  }
}

const isReady = (message: unknown): message is { ready: true; url?: string } =>
  typeof message === 'object' && message !== null && 'ready' in message && message.ready === true
