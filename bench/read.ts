/*
 * Part reads: balances, statuses and statements
 *
 * GET on 64 connections: the balance of one account that has received 10, 10^4 or 10^6 transfers, each connection asking
 * for the same; the balances of 1,000 accounts; the status of 4,096 transfers; the statement of the large account.
 */
import { SERVICE_ACCOUNT } from '../src/transfer.ts'
import { growTo } from './grown.ts'
import type { Bench } from './main.ts'
import type { Result, Row } from './report.ts'
import { perSecond } from './run.ts'
import { onDatabase } from './stage.ts'
import { openAccounts, post } from './workload.ts'

export async function runReads(bench: Bench): Promise<Result> {
  const seconds = bench.options.seconds ?? (bench.full ? 10 : 1.5)
  const { service, accounts } = await growTo(bench, 1e6)
  const { small, middle, ids } = await onDatabase(service.databaseUrl, async (client) => {
    const [small = '', middle = ''] = await openAccounts(client, 2)
    await receive(small, 9)
    await receive(middle, 9_999)
    const { rows } = await client.query<{ id: string }>('SELECT id FROM ledger.transfer LIMIT 4096')
    return { small, middle, ids: rows.map(({ id }) => id) }

    async function receive(destination: string, count: number): Promise<void> {
      for (let left = count; left > 0; left -= 1000) {
        const some = Array.from({ length: Math.min(left, 1000) }, () => ({ source: SERVICE_ACCOUNT, destination }))
        await post(client, some)
      }
    }
  })

  const reads: Record<string, string[]> = {
    'balance, 10 received': [`/accounts/${small}/balance`],
    'balance, 10^4 received': [`/accounts/${middle}/balance`],
    'balance, 10^6 received': [`/accounts/${accounts[0]}/balance`],
    'balance, 1,000 accounts': accounts.slice(1).map((account) => `/accounts/${account}/balance`),
    'status, 4,096 transfers': ids.map((id) => `/transfers/${id}`),
    'statement, 10^6 received': [`/accounts/${accounts[0]}/transfers`],
  }
  const rows: Row[] = []
  const faults: string[] = []
  for (const [read, paths] of Object.entries(reads)) {
    // Also where a long tail is found and its closing ordered.
    await readLoad(bench, service.url, paths, 1)
    const { non_2xx, ...row } = await readLoad(bench, service.url, paths, seconds)
    rows.push({ read, ...row })
    if (non_2xx > 0) faults.push(`${read}: ${non_2xx} non_2xx`)
    bench.say(`${read}: ${row.per_s.toLocaleString('en')}/s, ${row.ms_p50} ms (p50) ${row.ms_p99} ms (p99)`)
  }
  return { part: 'reads', workload: 'GET on 64 connections', rows, faults }
}

export async function readLoad(bench: Bench, url: string, paths: readonly string[], seconds: number) {
  const requests = paths.map((path) => ({ method: 'GET' as const, path }))
  const { ok, non_2xx, errors, first_at, last_at, latency_p50_ms, latency_p99_ms } = await bench.load.run({
    url,
    connections: 64,
    seconds,
    requests,
  })
  return {
    per_s: perSecond(ok, last_at - first_at),
    ms_p50: latency_p50_ms,
    ms_p99: latency_p99_ms,
    non_2xx: non_2xx + errors,
  }
}
