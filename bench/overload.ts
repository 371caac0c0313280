/*
 * npm run overload
 *
 * What the service does with more than it can: the rate that it sustains is measured first, then three times that is
 * aimed at it for a minute. It may refuse (503), and let its queue grow; it may not lose what it has accepted, answer
 * late, refuse in any other way, or grow without end. Afterwards the queue is drained, each accepted transfer is looked
 * up in the ledger by its id, and the books are audited. Offered is what was really sent: connections that wait for an
 * answer send less than they are told to. All begin their second at once, so what comes in comes in bursts.
 *
 * `--seconds N` and `--backend postgres` show results without saving them. Exit code: 1 if a bar is missed.
 */
import { parseArgs } from 'node:util'
import { audit, describeAudit } from '../src/db/audit.ts'
import { killChildren } from './child.ts'
import { startLoad } from './load.ts'
import { type OfferResult, startOffer } from './offer.ts'
import { machine, type Row, saveResult, table } from './report.ts'
import { perSecond, round, runTransfers, serviceTarget } from './run.ts'
import { dropDatabase, onDatabase, openStage, type Service, startService, until } from './stage.ts'
import { residentBytes } from './watch.ts'
import { openAccounts, transferRequests } from './workload.ts'

const SECONDS = 60
const TIMES = 3
/** Each waits for its answer, be it a refusal, before it sends more: with 3,000, hardly more was sent than is sustained. */
const CONNECTIONS = 6000
const ACCOUNTS = 1000
const SUSTAINED = { shape: 'uniform', connections: 64, seconds: 4 } as const
/** Nobody waits longer for an answer, be it a refusal. */
const ANSWER_P99_MS = 1000
/** From the middle third of the overload to the last: a queue is kept elsewhere, so memory has levelled out. */
const GROWTH = 1.2
/** Nothing decided for that long: what is still open is lost. */
const STALLED_MS = 30_000
const SETTLED_MS = 1000

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { seconds: { type: 'string' }, backend: { type: 'string', default: 'redis' } },
  })
  const seconds = Number(values.seconds ?? SECONDS)
  const { backend } = values
  if (!(seconds >= 3)) throw new Error(`--seconds ${values.seconds}: 3 or more`)
  if (backend !== 'redis' && backend !== 'postgres') throw new Error(`--backend ${backend}: redis or postgres`)
  const stage = await openStage(console.log)
  const stopOnSignal = () => {
    // Connections break while everything is being stopped: no news, and no reason to leave the rest behind.
    for (const event of ['uncaughtException', 'unhandledRejection']) process.on(event, () => undefined)
    killChildren()
    void stage.stop().finally(() => process.exit(1))
  }
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, stopOnSignal)
  try {
    if (backend === 'redis' && !stage.redis) throw new Error('no Redis here: --backend postgres goes without')
    const service = await startService(stage, backend)
    const { row, faults } = await overload(service, seconds)
    await service.stop()
    const books = await audit(service.databaseUrl)
    await dropDatabase(stage, service.databaseUrl)
    console.log(describeAudit(books))
    if (!books.ok) faults.push('the books do not balance')
    console.log(`\n${table(Object.entries(row).map(([measure, value]) => ({ measure, value })))}\n`)
    const workload = `${TIMES} x the sustained rate aimed at it for ${seconds} s, ${CONNECTIONS} connections, ${backend}`
    if (values.seconds === undefined && backend === 'redis') {
      console.log(await saveResult({ part: 'overload', workload, rows: [row], faults }, machine(stage.versions)))
    }
    for (const fault of faults) console.error(`FAULT ${fault}`)
    if (faults.length > 0) process.exitCode = 1
    else console.log('every bar is met')
  } finally {
    killChildren()
    await stage.stop()
  }
}

async function overload(service: Service, seconds: number): Promise<{ row: Row; faults: string[] }> {
  return await onDatabase(service.databaseUrl, async (client) => {
    const target = serviceTarget(service)
    const accounts = await openAccounts(client, ACCOUNTS)
    const load = await startLoad()
    const sustained = await runTransfers(target, load, SUSTAINED, accounts)
    await load.stop()
    const rate = TIMES * sustained.posted_per_s
    console.log(`sustained: ${sustained.posted_per_s} posted/s; now offering ${rate}/s for ${seconds} s`)

    const countDecided = () => target.countDecided(client, accounts)
    const decidedBefore = await countDecided()
    const offer = await startOffer()
    const memory = watchMemory({ api: service.pids.api ?? 0, worker: service.pids.worker ?? 0 })
    const requests = transferRequests(SUSTAINED.shape, accounts)
    const sent = await offer.run({ url: service.url, connections: CONNECTIONS, rate, seconds, requests })
    const resident = memory.stop()
    await offer.stop()

    const decidedWhenOver = (await countDecided()) - decidedBefore
    console.log(`over: ${sent.ids.length} accepted, ${decidedWhenOver} of them decided; now waiting for the rest`)
    const { decided, drained_at } = await drain(countDecided, decidedBefore + sent.ids.length)
    const rejected = (await target.countRejected(client, accounts)) - sustained.rejected
    const measured = {
      sustained_per_s: sustained.posted_per_s,
      aimed_per_s: rate,
      ...describeAnswers(sent),
      posted_per_s: perSecond(decided - decidedBefore - rejected, drained_at - sent.began_at),
      drain_ms: Math.max(0, drained_at - sent.ended_at),
      waiting_at_end: Math.max(0, sent.ids.length - decidedWhenOver),
      lost: await countLost(service.databaseUrl, sent.ids),
    }
    return { row: { ...measured, ...resident }, faults: [...sustained.faults, ...judge(measured, resident)] }
  })
}

function describeAnswers({ sent, answers, ids, errors, began_at, ended_at }: OfferResult) {
  const { 202: accepted, 503: refused, ...others } = answers
  const count = (some: typeof answers) => Object.values(some).reduce((all, answer) => all + answer.count, 0)
  const rate = (n: number) => perSecond(n, ended_at - began_at)
  return {
    offered_per_s: rate(sent),
    accepted_per_s: rate(ids.length),
    refused_per_s: rate(refused?.count ?? 0),
    accepted_ms_p50: accepted ? round(accepted.p50_ms) : null,
    accepted_ms_p99: accepted ? round(accepted.p99_ms) : null,
    refused_ms_p50: refused ? round(refused.p50_ms) : null,
    refused_ms_p99: refused ? round(refused.p99_ms) : null,
    other_answers: count(others),
    errors,
    unanswered_at_end: sent - count(answers) - errors,
  }
}

type Measured = Record<string, number | null>

function judge(measured: Measured, resident: Record<string, number>): string[] {
  const value = (name: string) => measured[name] ?? 0
  const late = ['accepted_ms_p99', 'refused_ms_p99'].filter((name) => value(name) >= ANSWER_P99_MS)
  const none = ['lost', 'other_answers', 'errors'].filter((name) => value(name) > 0)
  const grown = ['api', 'worker'].filter(
    (part) => !((resident[`${part}_mb_last`] ?? 0) <= GROWTH * (resident[`${part}_mb_middle`] ?? 0)),
  )
  return [
    ...(value('offered_per_s') > value('sustained_per_s') ? [] : ['no more was offered than is sustained']),
    ...(value('accepted_per_s') > 0 ? [] : ['nothing was accepted']),
    ...late.map((name) => `${name} is ${value(name)}, not below ${ANSWER_P99_MS}`),
    ...none.map((name) => `${value(name)} ${name}`),
    ...grown.map((part) => `${part}: resident memory grew more than ${GROWTH} times from the middle third to the last`),
  ]
}

/** Resident memory each second: the means of each third, and the highest, in MB. */
function watchMemory(pids: Record<string, number>): { stop(): Record<string, number> } {
  const samples = Object.entries(pids).map(([part, pid]) => ({ part, pid, mb: [] as number[] }))
  const timer = setInterval(() => {
    for (const { pid, mb } of samples) void residentBytes(pid).then(({ now }) => mb.push(now / 1e6))
  }, 1000)
  const mean = (mb: number[]) => round(mb.reduce((sum, one) => sum + one, 0) / mb.length)
  return {
    stop: () => {
      clearInterval(timer)
      return Object.fromEntries(
        samples.flatMap(({ part, mb }) => {
          const third = Math.floor(mb.length / 3)
          return [
            [`${part}_mb_first`, mean(mb.slice(0, third))],
            [`${part}_mb_middle`, mean(mb.slice(third, -third))],
            [`${part}_mb_last`, mean(mb.slice(-third))],
            [`${part}_mb_max`, round(Math.max(...mb))],
          ]
        }),
      )
    },
  }
}

async function drain(countDecided: () => Promise<number>, expected: number) {
  let [decided, drained_at] = [await countDecided(), Date.now()]
  await until('the queue is drained', 3_600_000, async () => {
    const now = await countDecided()
    if (now > decided) drained_at = Date.now()
    decided = now
    return Date.now() - drained_at > (decided >= expected ? SETTLED_MS : STALLED_MS)
  })
  return { decided, drained_at }
}

/** Accepted, but not in the ledger. */
async function countLost(databaseUrl: string, ids: string[]): Promise<number> {
  return await onDatabase(databaseUrl, async (client) => {
    const { rows } = await client.query<{ lost: string }>(
      `SELECT count(*) AS lost FROM unnest($1::uuid[]) AS accepted
      WHERE NOT EXISTS (SELECT FROM ledger.transfer WHERE id = accepted)`,
      [ids],
    )
    return Number(rows[0]?.lost)
  })
}

await main().catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error)
  process.exitCode = 1
})
