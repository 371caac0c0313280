/*
 * A process of its own
 *
 * API, worker, baselines and the load generator each run in one, so that none takes the measuring process' time, and
 * each ends when the channel to this one closes: whatever happens here, nothing is left behind.
 */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { NODE_ENVIRONMENT, NODE_FLAGS } from '../src/keeper.ts'

export type Child = {
  pid: number
  url: string
  /** Sends one question, answers with its answer; one at a time. @throws Error if the process says `{failure}` or ends. */
  ask(question: object): Promise<unknown>
  stop(): Promise<void>
}

const running = new Set<ChildProcess>()

/** For what sends the load: it shall cost the service as little of the machine as it can, whatever memory that takes. */
export const LOAD_FLAGS = ['--max-semi-space-size=64']

/**
 * @param file relative to the root of the checkout; its process says `{ready: true, url?}` when it is.
 * @param flags of Node; those of an API, as npm start has them, for the baselines, too.
 */
export async function startChild(
  file: string,
  env: NodeJS.ProcessEnv = {},
  flags: string[] = NODE_FLAGS.api,
): Promise<Child> {
  const path = fileURLToPath(new URL(`../${file}`, import.meta.url))
  const child = fork(path, [], {
    env: { ...NODE_ENVIRONMENT, ...process.env, ...env },
    execArgv: flags,
    // A group of its own: a terminal's Ctrl-C reaches the bench, which stops its children in order.
    detached: true,
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  })
  running.add(child)
  const ended = once(child, 'exit').then(() => running.delete(child))
  const ready = await answer(child, file)
  const url = typeof ready === 'object' && ready !== null && 'url' in ready ? String(ready.url) : ''
  return {
    pid: child.pid ?? 0,
    url,
    ask: (question) => {
      child.send(question)
      return answer(child, file)
    },
    stop: async () => {
      child.kill('SIGTERM')
      const hangs = setTimeout(() => child.kill('SIGKILL'), 15_000)
      await ended
      clearTimeout(hangs)
    },
  }
}

function answer(child: ChildProcess, file: string): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const onMessage = (message: unknown) => {
      child.off('exit', onExit)
      if (isFailure(message)) reject(new Error(`${file}: ${message.failure}`))
      else resolve(message)
    }
    const onExit = (code: number | null) => {
      child.off('message', onMessage)
      reject(new Error(`${file} ended by itself (exit code ${code})`))
    }
    child.once('message', onMessage)
    child.once('exit', onExit)
  })
}

function isFailure(message: unknown): message is { failure: string } {
  return typeof message === 'object' && message !== null && 'failure' in message
}

/** The other side: answers questions until the channel closes. */
export async function serveQuestions<Question>(reply: (question: Question) => Promise<object>): Promise<void> {
  process.on('message', (question) => {
    void reply(question as Question)
      .catch((error: unknown) => ({ failure: String(error) }))
      .then((message) => process.send?.(message))
  })
  process.on('disconnect', () => process.exit(0))
  process.on('SIGTERM', () => process.exit(0))
  process.send?.({ ready: true })
}

/** For an end in a hurry. */
export function killChildren(): void {
  for (const child of running) child.kill('SIGKILL')
}
