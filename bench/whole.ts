/*
 * The whole service, as `npm start` starts it, in a process of its own on data that are deleted afterwards.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, realpath, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { embeddedUrl } from '../src/db/audit.ts'

export type WholeService = { url: string; databaseUrl: string; stop: () => Promise<void> }

export async function startWholeService(): Promise<WholeService> {
  const dataDir = await mkdtemp(join(tmpdir(), 'transfer-demo-'))
  const service = spawn(process.execPath, [fileURLToPath(new URL('../src/start.ts', import.meta.url))], {
    // Nothing of the caller's own: a demo must not write to a ledger in use, nor share its queue.
    env: { ...process.env, DATABASE_URL: '', REDIS_URL: '', DATA_DIR: dataDir, HOST: '127.0.0.1', PORT: '0' },
    stdio: ['ignore', 'pipe', 'inherit'],
    detached: true,
  })
  const ended = once(service, 'exit')
  const remove = async () => {
    // Root's data may lie elsewhere, behind a link.
    const home = await realpath(join(dataDir, 'postgres')).catch(() => undefined)
    if (home) await rm(home, { recursive: true, force: true })
    await rm(dataDir, { recursive: true, force: true })
  }
  let stopping: Promise<void> | undefined
  const stop = () => {
    stopping ??= (async () => {
      service.kill('SIGTERM')
      await ended
      await remove()
    })()
    return stopping
  }
  const url = await new Promise<string>((resolve, reject) => {
    const lines = createInterface({ input: service.stdout })
    lines.on('line', (line) => {
      const [, found] = /running at (http\S+)/.exec(line) ?? []
      if (found) resolve(found)
      else if (line.startsWith('creating') || line.startsWith('migrated')) console.log(line)
    })
    void ended.then(([code]) => reject(new Error(`the service ended by itself (exit code ${code})`)))
  }).catch(async (error: unknown) => {
    await remove()
    throw error
  })
  return { url, databaseUrl: await embeddedUrl(dataDir), stop }
}
