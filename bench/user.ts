/*
 * Part users: the mixed user
 *
 * 1,024 users, in a process of their own. Each opens an account with money on it, then every 1 to 3 seconds checks its
 * balance or transfers to another user (3 to 1): about 512 requests/s, far from the service's limit, so what is seen is
 * how long it takes when nobody is in a hurry. Every other transfer asks to wait for the decision.
 */
import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { SERVICE_ACCOUNT } from '../src/transfer.ts'
import { serveQuestions, startChild } from './child.ts'
import { createClient } from './client.ts'
import type { Bench } from './main.ts'
import type { Result, Row } from './report.ts'
import { round } from './run.ts'
import { startService } from './stage.ts'
import { percentile } from './waiter.ts'

type Plan = { url: string; users: number; seconds: number }
type Kind = 'balance' | 'transfer, accepted' | 'transfer, posted'
type Answers = { durations_ms: Record<Kind, number[]>; failures: number }

export async function runUsers(bench: Bench): Promise<Result> {
  const { stage, say, options, full } = bench
  const seconds = options.seconds ?? (full ? 60 : 6)
  const rows: Row[] = []
  const faults: string[] = []
  for (const backend of full ? bench.backends : bench.backends.slice(0, 1)) {
    const service = await startService(stage, backend)
    const users = await startChild('bench/user.ts')
    try {
      say(`${backend}: warming up`)
      await users.ask({ url: service.url, users: 1024, seconds: 3 })
      say(`${backend}: 1,024 users for ${seconds} s`)
      const { durations_ms, failures } = (await users.ask({ url: service.url, users: 1024, seconds })) as Answers
      if (failures > 0) faults.push(`${backend}: ${failures} requests failed`)
      for (const [request, durations] of Object.entries(durations_ms)) {
        const ascending = durations.toSorted((a, b) => a - b)
        const [ms_p50, ms_p99] = [round(percentile(ascending, 50)), round(percentile(ascending, 99))]
        rows.push({ backend, request, per_s: round(durations.length / seconds), ms_p50, ms_p99 })
        say(`${backend}: ${request}: ${ms_p50} ms (p50) ${ms_p99} ms (p99)`)
      }
    } finally {
      await users.stop()
      await service.stop()
    }
    faults.push(...(await bench.checkBooks(service.databaseUrl)))
  }
  return { part: 'users', workload: '1,024 users, a balance or a transfer (3 to 1) every 1 to 3 s', rows, faults }
}

async function play({ url, users, seconds }: Plan): Promise<Answers> {
  const client = createClient(url, users)
  const accounts = Array.from({ length: users }, () => randomUUID() as string)
  const answers: Answers = {
    durations_ms: { balance: [], 'transfer, accepted': [], 'transfer, posted': [] },
    failures: 0,
  }
  const opened = await Promise.all(
    accounts.map(async (id, position) => {
      await sleep(2 * position)
      return await client.send('POST', '/accounts', { id, balance: '1000000' }, { prefer: 'wait=10' })
    }),
  )
  answers.failures += opened.filter(({ status }) => status !== 201).length

  const end_ms = performance.now() + 1000 * seconds
  const pause_ms = () => 1000 + 2000 * Math.random()
  const time = async (kind: Kind, send: () => ReturnType<typeof client.send>) => {
    const began_ms = performance.now()
    const { status, repeats } = await send()
    answers.durations_ms[kind].push(performance.now() - began_ms)
    if (status < 200 || status > 299 || repeats > 0) answers.failures += 1
  }
  await Promise.all(
    accounts.map(async (source) => {
      let transfers = Math.floor(2 * Math.random())
      // As if all had been at it for a while.
      await sleep(pause_ms() * Math.random())
      while (performance.now() < end_ms) {
        if (Math.random() < 0.75) {
          await time('balance', () => client.send('GET', `/accounts/${source}/balance`))
        } else {
          // Nobody pays themselves: such a draw pays the bank.
          const destination = accounts[Math.floor(Math.random() * users)] as string
          const transfer = {
            source,
            destination: destination === source ? SERVICE_ACCOUNT : destination,
            amount: '1.25',
          }
          transfers += 1
          if (transfers % 2 === 0) await time('transfer, accepted', () => client.send('POST', '/transfers', transfer))
          else {
            const waiting = { prefer: 'wait=10' }
            await time('transfer, posted', () => client.send('POST', '/transfers', transfer, waiting))
          }
        }
        await sleep(pause_ms())
      }
    }),
  )
  client.close()
  return answers
}

if (import.meta.main) await serveQuestions(play)
