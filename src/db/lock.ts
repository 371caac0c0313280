/*
 * Lock
 *
 * One launcher per home of an embedded Postgres, and no Postgres in it that nobody launched. Two launchers would stop
 * each other's Postgres, for the first thing each does is to stop the one it finds.
 *
 * Next: embedded.ts, which asks for both before it starts Postgres.
 */
import { execFile } from 'node:child_process'
import { readFile, readlink, realpath, rm, stat } from 'node:fs/promises'
import { connect, createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'

const PATIENCE_MS = 30_000
const ANSWER_MS = 1000

/**
 * One launcher per home. A socket, because the kernel closes it with its process, however that ends: a file with a pid
 * in it outlives a kill -9, and the pid may be somebody else's by then. It is named after the folder's inode, so the
 * path taken to it does not matter. On Linux the name is abstract; elsewhere it is a file, which may be stale.
 */
export async function lockHome(home: string): Promise<() => void> {
  const { dev, ino } = await stat(home)
  const name = `transfer-${dev}-${ino}`
  const path = process.platform === 'linux' ? `\0${name}` : join(tmpdir(), `${name}.sock`)
  const server = createServer((socket) => {
    socket.on('error', () => undefined) // whoever asked went away
    socket.end(String(process.pid))
  })
  const listen = () =>
    new Promise<Server>((done, failed) => {
      server.once('error', failed)
      server.listen(path, () => done(server))
    })
  await listen().catch(async (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EADDRINUSE') throw error
    const holder = await ask(path)
    if (holder !== undefined) {
      throw new Error(
        `another process (pid ${holder}) already runs the Postgres in ${home}: ` +
          'stop that one first, or set DATA_DIR (and PORT) to run a second service beside it',
      )
    }
    if (!path.startsWith('\0')) await rm(path, { force: true })
    await listen()
  })
  server.unref()
  return () => void server.close()
}

const ask = (path: string): Promise<string | undefined> =>
  new Promise((done) => {
    const socket = connect(path)
    socket.once('data', (pid) => done(String(pid)))
    socket.once('error', () => done(undefined))
    socket.once('close', () => done('unknown'))
    socket.setTimeout(ANSWER_MS, () => socket.destroy()) // it is there, but busy or suspended
  })

/**
 * A Postgres whose launcher was killed is stopped, not reused: it may run with other flags, and nobody would know when
 * it ends. That we hold the lock says its launcher is gone. The pid in its file may meanwhile be another program's.
 */
export async function stopSurvivor(cluster: string, log: (line: string) => void): Promise<void> {
  const file = join(cluster, 'postmaster.pid')
  const pid = Number((await readFile(file, 'utf8').catch(() => '')).split('\n')[0])
  if (!(pid > 1) || !send(pid, 0)) return // Postgres itself sees to the file of a dead one
  if (!(await isPostgresOf(pid, cluster))) {
    // Postgres would take any living process of that number for a rival and refuse to start.
    await rm(file)
    return
  }
  log(`stopping a Postgres (pid ${pid}) that a killed launcher left behind`)
  for (const signal of ['SIGINT', 'SIGQUIT', 'SIGKILL'] as const) {
    send(pid, signal)
    for (let waited_ms = 0; waited_ms < PATIENCE_MS; waited_ms += 50) {
      await sleep(50)
      // Not whether the pid is there: nobody may have reaped it, as in a container without an init.
      if (!(await isPostgresOf(pid, cluster))) return
    }
  }
  throw new Error(`a Postgres left behind by a killed launcher (pid ${pid}) does not stop`)
}

/** Whether there was a process to send it to; signal 0 only asks. */
function send(pid: number, signal: NodeJS.Signals | 0): boolean {
  try {
    process.kill(pid, signal)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

/** Postgres works in its data folder. Where /proc does not tell, its arguments do. */
async function isPostgresOf(pid: number, cluster: string): Promise<boolean> {
  try {
    if (process.platform !== 'linux') {
      const { stdout } = await promisify(execFile)('ps', ['-o', 'command=', '-p', String(pid)])
      return stdout.includes('postgres') && stdout.includes(cluster)
    }
    const program = (await readFile(`/proc/${pid}/cmdline`, 'utf8')).split('\0')[0] ?? ''
    return basename(program) === 'postgres' && (await readlink(`/proc/${pid}/cwd`)) === (await realpath(cluster))
  } catch {
    return false
  }
}
