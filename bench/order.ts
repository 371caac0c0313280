/*
 * The orders of the demo
 *
 * What 1,000 account holders send, drawn at random from a seed: mostly transfers they can pay for, and everything that
 * real clients get wrong, too.
 */
import { randomUUID } from 'node:crypto'

/** `key`: an Idempotency-Key; without one the service draws the id. `repeats`: position of the order it repeats. */
export type Order = {
  kind: Kind
  source: string
  destination: string
  amount: string
  key: string | undefined
  repeats: number | undefined
}

const SHARES = {
  ordinary: 0.65,
  /** Far more than any account ever holds. */
  too_much: 0.1,
  to_nobody: 0.05,
  from_nobody: 0.02,
  /** The same request again, under the same key: by a client that saw no answer, say. */
  repeated: 0.18,
} as const

export type Kind = keyof typeof SHARES

export function drawOrders(accounts: readonly string[], count: number, random: () => number): Order[] {
  const pick = <T>(items: readonly T[]): T => items[Math.floor(random() * items.length)] as T
  const orders: Order[] = []
  const keyed: number[] = []
  while (orders.length < count) {
    const kind = drawKind(random())
    if (kind === 'repeated') {
      if (keyed.length === 0) continue
      const repeats = pick(keyed)
      orders.push({ ...(orders[repeats] as Order), kind, repeats })
      continue
    }
    const source = kind === 'from_nobody' ? randomUUID() : pick(accounts)
    const others = kind === 'to_nobody' ? [randomUUID()] : accounts
    let destination = pick(others)
    while (destination === source) destination = pick(others)
    const cents = kind === 'too_much' ? 100_000_000 : 1 + Math.floor(random() * 2000)
    const key = random() < 0.8 ? `order ${orders.length}` : undefined
    if (key !== undefined) keyed.push(orders.length)
    orders.push({ kind, source, destination, amount: fromCents(BigInt(cents)), key, repeats: undefined })
  }
  return orders
}

function drawKind(point: number): Kind {
  let rest = point
  for (const [kind, share] of Object.entries(SHARES)) {
    rest -= share
    if (rest < 0) return kind as Kind
  }
  return 'ordinary'
}

/** A small seeded generator (mulberry32, https://gist.github.com/tommyettinger/46a874533244883189143505d203312c). */
export function seeded(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** Exact, as the service is. At most two digits after the point. */
export function toCents(amount: string): bigint {
  const [, sign, whole, fraction = ''] = /^(-?)(\d+)(?:\.(\d{1,2})0*)?$/.exec(amount) ?? []
  if (whole === undefined) throw new Error(`not an amount with two digits after the point: ${amount}`)
  const cents = BigInt(whole) * 100n + BigInt(fraction.padEnd(2, '0'))
  return sign ? -cents : cents
}

export function fromCents(cents: bigint): string {
  const digits = String(cents < 0n ? -cents : cents).padStart(3, '0')
  return `${cents < 0n ? '-' : ''}${digits.slice(0, -2)}.${digits.slice(-2)}`
}
