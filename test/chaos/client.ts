/*
 * Clients
 *
 * They behave as real ones do: each transfer has a key, and is sent again under it, over either API, with a growing
 * pause, after an error or no answer in time, until it is accepted; later they ask what became of it. Some are impatient
 * and send again before the first could be answered; some send again what was decided long ago. Whatever any answer said
 * is written down: the checker holds it against the ledger.
 *
 * Next: checker.ts.
 */
import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { transferId } from '../../src/transfer.ts'

/** What a client knows of one transfer. */
export type Sent = {
  id: string
  key: string
  source: string
  destination: string
  amount: string
  attempts: number
  acknowledged: boolean
  /** The last answer was that there is no such transfer. */
  missing: boolean
  /** Where the 202 said it can be asked after. */
  location: string
  /** Each decision that any answer told, as text; one, if all is well. */
  answers: Set<string>
}

/**
 * An answer that shows a part at work: by which API, and when that was asked. `decided` is one that went all the way,
 * from submission to decision; a look at what was decided before is none.
 */
export type Progress = { what: 'acknowledged' | 'decided'; api: string; asked_ms: number }

export type Load = {
  sent: Map<string, Sent>
  /** How often each status was seen, 0 for no answer. */
  statuses: Map<number, number>
  /** Begins nothing new; what was begun is repeated until it is accepted, for so long at most. */
  stop(patience_ms: number): Promise<void>
  /** Asks after all that was acknowledged, until it is decided or not even known, or nothing more was for so long. */
  settle(patience_ms: number): Promise<void>
}

export type LoadOptions = {
  apis: readonly string[]
  /** Transfers per second at most. */
  rate: number
  random: () => number
  onProgress: (progress: Progress) => void
}

type Answer = { status: number; body: Record<string, unknown>; location: string | null; replayed: boolean }

const CLIENTS = 40
const POLLERS = 6
const ACCOUNTS = 40
/** These run dry, so that rejections are among the decisions. */
const POOR = 6
const TIMEOUT_MS = 3000
/** Too short for an answer now and then, so that a key arrives again while it is under way. */
const IMPATIENT_MS = 15
const WAIT_S = 5

/** Opens accounts, while nothing is wrong yet. */
export async function openAccounts(apis: readonly string[]): Promise<string[]> {
  const [api = ''] = apis
  return await Promise.all(
    Array.from({ length: ACCOUNTS }, async (_, number) => {
      const id = randomUUID()
      for (;;) {
        const balance = number < POOR ? '2.00' : '100000.00'
        const answer = await ask(`${api}/accounts`, 20_000, { id, balance }, { Prefer: `wait=${WAIT_S}` })
        // An attempt that was answered 503, or not at all, may have got through.
        if (answer?.status === 201 || answer?.status === 409) return id
        await sleep(200)
      }
    }),
  )
}

export function startLoad(accounts: readonly string[], options: LoadOptions): Load {
  const { apis, rate, random, onProgress } = options
  const sent = new Map<string, Sent>()
  const statuses = new Map<number, number>()
  const asking: Sent[] = []
  let decided_ms = performance.now()
  let going = true
  let giving_up = false
  let settled = false

  const pick = <T>(items: readonly T[]): T => items[Math.floor(random() * items.length)] as T

  function draw(): Sent {
    // A fifth of all is spent from one account, and a fifth paid into one.
    const source = random() < 0.2 ? (accounts[POOR] ?? '') : pick(accounts)
    const others = accounts.filter((account) => account !== source)
    const destination = random() < 0.2 ? (others[POOR + 1] ?? '') : pick(others)
    const amount = (0.01 + Math.floor(random() * 200) / 100).toFixed(2)
    const key = randomUUID()
    const id = transferId(source, key)
    const unknown = { attempts: 0, acknowledged: false, missing: false, location: '', answers: new Set<string>() }
    return { id, key, source, destination, amount, ...unknown }
  }

  function note(answer: Answer | undefined, transfer: Sent): boolean {
    const status = answer?.status ?? 0
    statuses.set(status, (statuses.get(status) ?? 0) + 1)
    transfer.missing = status === 404
    if (!answer || (status !== 200 && status !== 202)) return false
    if (answer.location) transfer.location = answer.location
    if (answer.body.status !== 'queued') {
      transfer.answers.add(asText(answer.body))
      decided_ms = performance.now()
    }
    return true
  }

  async function send(transfer: Sent, api: string, timeout_ms: number, wait: boolean): Promise<boolean> {
    const { source, destination, amount, key } = transfer
    const asked_ms = performance.now()
    transfer.attempts += 1
    const headers = { 'Idempotency-Key': key, ...(wait && { Prefer: `wait=${WAIT_S}` }) }
    const answer = await ask(`${api}/transfers`, timeout_ms, { source, destination, amount }, headers)
    if (!note(answer, transfer)) return false
    onProgress({ what: 'acknowledged', api, asked_ms })
    if (answer?.body.status !== 'queued' && !answer?.replayed) onProgress({ what: 'decided', api, asked_ms })
    return true
  }

  async function submit(transfer: Sent): Promise<void> {
    sent.set(transfer.id, transfer)
    const waits = random() < 0.3
    for (let attempt = 0; !giving_up; attempt++) {
      const impatient = attempt === 0 && random() < 0.03
      const timeout_ms = impatient ? IMPATIENT_MS : TIMEOUT_MS + (waits ? WAIT_S * 1000 : 0)
      if (await send(transfer, pick(apis), timeout_ms, waits)) {
        transfer.acknowledged = true
        asking.push(transfer)
        return
      }
      await sleep(random() * Math.min(100 * 2 ** attempt, 1000))
    }
  }

  async function client(number: number): Promise<void> {
    const pause_ms = (CLIENTS / rate) * 1000
    let next_ms = performance.now() + (number / CLIENTS) * pause_ms
    while (going) {
      await sleep(Math.max(0, next_ms - performance.now()))
      // What was missed during an outage is not made up for.
      next_ms = Math.max(next_ms + pause_ms, performance.now())
      await submit(draw())
    }
  }

  async function poll(): Promise<void> {
    while (!settled) {
      const transfer = asking.shift()
      if (!transfer) {
        await sleep(50)
        continue
      }
      // Who waited for the decision has it already, and asks as later askers do.
      const api = pick(apis)
      const answer = await ask(`${api}${transfer.location || `/transfers/${transfer.id}`}`, TIMEOUT_MS)
      note(answer, transfer)
      if (transfer.answers.size === 0) {
        asking.push(transfer)
        await sleep(20)
      } else if (random() < 0.05) {
        await send(transfer, pick(apis), TIMEOUT_MS, false)
      }
    }
  }

  const clients = Promise.all(Array.from({ length: CLIENTS }, (_, number) => client(number)))
  const pollers = Promise.all(Array.from({ length: POLLERS }, poll))

  return {
    sent,
    statuses,
    stop: async (patience_ms) => {
      going = false
      const late = setTimeout(() => {
        giving_up = true
      }, patience_ms)
      await clients
      clearTimeout(late)
    },
    settle: async (patience_ms) => {
      decided_ms = performance.now()
      // What was not known in the middle of an outage is asked for again.
      for (const transfer of sent.values()) transfer.missing = false
      const isOpen = ({ acknowledged, missing, answers }: Sent) => acknowledged && !missing && answers.size === 0
      while ([...sent.values()].some(isOpen) && performance.now() - decided_ms < patience_ms) await sleep(100)
      settled = true
      await pollers
    },
  }
}

/** One spelling of a decision, the same for an answer and for a row of the ledger. */
export function asText(decision: Record<string, unknown>): string {
  const { id, source, index, destination, amount, status, reason, recorded_at } = decision
  return JSON.stringify([id, source, index, destination, amount, status, reason ?? null, recorded_at])
}

/** @returns undefined if there was no whole answer in time. */
async function ask(
  url: string,
  timeout_ms: number,
  body?: object,
  headers: Record<string, string> = {},
): Promise<Answer | undefined> {
  try {
    const answer = await fetch(url, {
      signal: AbortSignal.timeout(timeout_ms),
      ...(body && {
        method: 'POST',
        body: JSON.stringify(body),
        headers: { 'Content-Type': 'application/json', ...headers },
      }),
    })
    const read = (await answer.json()) as Record<string, unknown>
    const replayed = answer.headers.has('Idempotent-Replayed')
    return { status: answer.status, body: read, location: answer.headers.get('Location'), replayed }
  } catch {
    return undefined
  }
}
