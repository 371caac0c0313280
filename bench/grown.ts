/*
 * A ledger with a past
 *
 * One service whose ledger is grown once and used by the parts growth, memory and reads, whichever runs first: filled
 * over HTTP in batches, so the service that is measured has been through all of it. 1,000 accounts send to one, so that
 * one has received as many transfers as are recorded.
 */
import { Redis } from 'ioredis'
import type { Bench } from './main.ts'
import { runTransfers, serviceTarget, type Target } from './run.ts'
import { onDatabase, type Service, startService } from './stage.ts'
import { type Resident, residentBytes } from './watch.ts'
import { openAccounts } from './workload.ts'

export type Grown = {
  service: Service
  target: Target
  /** The first has received nearly all; the others have sent it. */
  accounts: string[]
  recorded: number
  /** What each part held when 10^6 were recorded, in bytes. */
  memory: Record<string, Resident> | undefined
  faults: string[]
}

const BATCH = 500
const MEASURE_AT = 1e6

export async function openGrown(bench: Bench): Promise<Grown> {
  if (bench.grown) return bench.grown
  const service = await startService(bench.stage, bench.backends[0] ?? 'postgres')
  const accounts = await onDatabase(service.databaseUrl, (client) => openAccounts(client, 1001))
  bench.grown = { service, target: serviceTarget(service), accounts, recorded: 0, memory: undefined, faults: [] }
  bench.say('warming up')
  await runTransfers(bench.grown.target, bench.load, { shape: 'uniform', connections: 64, seconds: 3 })
  return bench.grown
}

/** Fills the ledger until that many transfers are recorded. */
export async function growTo(bench: Bench, recorded: number): Promise<Grown> {
  const grown = await openGrown(bench)
  const { target, accounts } = grown
  while (true) {
    grown.recorded = await countRecorded(grown)
    if (grown.recorded >= MEASURE_AT) grown.memory ??= await measureMemory(bench, grown)
    if (grown.recorded >= recorded) return grown
    // In steps, to show progress, and so that the queue does not fill up.
    const amount = Math.ceil(
      Math.min(recorded - grown.recorded, 250_000, Math.max(MEASURE_AT - grown.recorded, 0) || 250_000) / BATCH,
    )
    const plan = { shape: 'hot_destination', connections: 4, batch: BATCH, seconds: 0, amount } as const
    const run = await runTransfers(target, bench.load, plan, accounts)
    grown.faults.push(...run.faults)
    const now = grown.recorded + BATCH * amount
    bench.say(`grown to ${now.toLocaleString('en')} transfers, ${run.posted_per_s.toLocaleString('en')} posted/s`)
  }
}

async function countRecorded({ service }: Grown): Promise<number> {
  return await onDatabase(service.databaseUrl, async (client) => {
    const { rows } = await client.query<{ count: string }>('SELECT count(*) FROM ledger.transfer')
    return Number(rows[0]?.count)
  })
}

async function measureMemory({ stage }: Bench, { service }: Grown): Promise<NonNullable<Grown['memory']>> {
  const { api = 0, worker = 0 } = service.pids
  const memory = { api: await residentBytes(api), worker: await residentBytes(worker) }
  if (service.backend !== 'redis' || !stage.redis) return memory
  const redis = new Redis(stage.redis.url)
  const told = await redis.info('memory')
  redis.disconnect()
  const field = (name: string) => Number(new RegExp(`^${name}:(\\d+)`, 'm').exec(told)?.[1])
  return { ...memory, redis: { now: field('used_memory'), highest: field('used_memory_peak'), shared: 0 } }
}

/** @returns what is wrong with it. */
export async function closeGrown(bench: Bench): Promise<string[]> {
  const { grown } = bench
  if (!grown) return []
  bench.grown = undefined
  await grown.service.stop()
  return [...grown.faults, ...(await bench.checkBooks(grown.service.databaseUrl))]
}
