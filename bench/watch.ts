/*
 * What others count
 *
 * Deadlocks and waits for locks as Postgres sees them, and the processor time and memory of each process as Linux does.
 */
import { readdir, readFile } from 'node:fs/promises'
import pg from 'pg'

export type LockWatch = {
  /** @returns deadlocks since the start, and how many sessions were seen waiting for a row or a transaction. */
  stop(): Promise<{ deadlocks: number; lock_waits: number }>
}

const SAMPLE_EVERY_MS = 100

/** Samples until stopped, on a connection of its own. */
export async function watchLocks(databaseUrl: string): Promise<LockWatch> {
  const client = new pg.Client({ connectionString: databaseUrl })
  await client.connect()
  const before = await countDeadlocks(client)
  let lock_waits = 0
  let sampling: Promise<void> | undefined
  const timer = setInterval(() => {
    sampling ??= sample().finally(() => {
      sampling = undefined
    })
  }, SAMPLE_EVERY_MS)
  const sample = async () => {
    const { rows } = await client.query<{ waits: string }>(`
      SELECT count(*) AS waits FROM pg_stat_activity
      WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event IN ('transactionid', 'tuple')`)
    lock_waits += Number(rows[0]?.waits)
  }
  return {
    stop: async () => {
      clearInterval(timer)
      await sampling
      const deadlocks = (await countDeadlocks(client)) - before
      await client.end()
      return { deadlocks, lock_waits }
    },
  }
}

async function countDeadlocks(client: pg.Client): Promise<number> {
  const { rows } = await client.query<{ deadlocks: string }>(
    'SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()',
  )
  return Number(rows[0]?.deadlocks)
}

/**
 * Seconds of processor time each process has used so far, its ended and living children included; and this one
 * (`bench`); and all the rest of the machine (`others`): where that is much, the figures tell little. Linux only.
 */
export async function processorTime(pids: Record<string, number>): Promise<Record<string, number>> {
  const used = new Map<number, number>()
  const parents = new Map<number, number>()
  for (const name of await readdir('/proc').catch(() => [])) {
    if (!/^\d+$/.test(name)) continue
    const stat = await readFile(`/proc/${name}/stat`, 'utf8').catch(() => '')
    // After the name in parentheses: state, parent, ..., and from the 12th on utime, stime, cutime, cstime in 1/100 s.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    parents.set(Number(name), Number(fields[1]))
    used.set(
      Number(name),
      fields.slice(11, 15).reduce((sum, ticks) => sum + Number(ticks) / 100, 0),
    )
  }
  const family = (pid: number): number =>
    (used.get(pid) ?? 0) +
    [...parents].reduce((sum, [child, parent]) => (parent === pid ? sum + family(child) : sum), 0)
  const ours = Object.fromEntries(Object.entries(pids).map(([name, pid]) => [name, family(pid)]))
  const bench = used.get(process.pid) ?? 0
  const rest = (await machineTime()) - bench - Object.values(ours).reduce((sum, seconds) => sum + seconds, 0)
  return { ...ours, bench, others: rest }
}

/** Seconds in which any processor was not idle, since boot. */
async function machineTime(): Promise<number> {
  const line = (await readFile('/proc/stat', 'utf8').catch(() => '')).split('\n')[0] ?? ''
  // user, nice, system, idle, iowait, irq, softirq, steal
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0, steal = 0] = line.split(/\s+/).slice(1).map(Number)
  return (user + nice + system + irq + softirq + steal) / 100
}

/** Of `now`, `shared` is what others may hold as well, such as the pages of Node's own program. */
export type Resident = { now: number; highest: number; shared: number }

/** Resident memory of a process in bytes, now and at its highest. Linux only. */
export async function residentBytes(pid: number): Promise<Resident> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '')
  const field = (name: string) => Number(new RegExp(`${name}:\\s+(\\d+) kB`).exec(status)?.[1] ?? Number.NaN) * 1024
  return { now: field('VmRSS'), highest: field('VmHWM'), shared: field('RssFile') + field('RssShmem') }
}
