/*
 * What clients and operators may do to the service, as data: the scripts of service.ts.
 */
import fc from 'fast-check'
import { units } from './books.ts'

// Of six accounts the first is likelier, so that it is hot; the last is never opened.
export const ACCOUNTS = 6
const GHOST = ACCOUNTS - 1

const account = fc.oneof(fc.constant(0), fc.nat(ACCOUNTS - 1))

const amount = fc
  .tuple(fc.nat(60), fc.constantFrom('', '.5', '.25', '.00', '.00000001', '.99999999'))
  .map(([whole, fraction]) => `${whole}${fraction}`)
  .filter((text) => units(text) > 0n)

// Few keys, so that they come again, in the same round or a later one, with the same payload or another.
const transfer = fc
  .record({ source: account, destination: account, amount, key: fc.nat(12) })
  .filter(({ source, destination }) => source !== destination)

type Asked = typeof transfer extends fc.Arbitrary<infer T> ? T : never

const api = fc.nat(1)

const command = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({ kind: fc.constant('open'), api, account: fc.nat(GHOST - 1), amount: fc.option(amount) }),
  },
  {
    weight: 8,
    arbitrary: fc.record({ kind: fc.constant('submit'), api, transfer, wait: fc.boolean(), keyed: fc.boolean() }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant('batch'),
      api,
      transfers: fc.array(transfer, { minLength: 1, maxLength: 6 }),
    }),
  },
  {
    weight: 7,
    arbitrary: fc.record({
      kind: fc.constant('replay'),
      api,
      earlier: fc.nat(),
      change: fc.constantFrom('nothing', 'nothing', 'amount', 'destination'),
      batch: fc.boolean(),
      wait: fc.boolean(),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('balance'), api, account }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('statement'), api, account }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('close') }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constantFrom('restart', 'another') }) },
) as fc.Arbitrary<Command>

export type Command =
  | { kind: 'open'; api: number; account: number; amount: string | null }
  | { kind: 'submit'; api: number; transfer: Asked; wait: boolean; keyed: boolean }
  | { kind: 'batch'; api: number; transfers: Asked[] }
  | {
      kind: 'replay'
      api: number
      earlier: number
      change: 'nothing' | 'amount' | 'destination'
      batch: boolean
      wait: boolean
    }
  | { kind: 'balance' | 'statement'; api: number; account: number }
  | { kind: 'close' | 'restart' | 'another' }

/** There is money to begin with; it is not enough. */
const FUNDING: Command[] = ['100.5', '60', '40.00000001'].map((amount, account) => ({
  kind: 'open',
  api: 0,
  account,
  amount,
}))

/** Rounds of commands: each is in flight at once, and decided before the next. */
export const script: fc.Arbitrary<Command[][]> = fc
  .array(fc.array(command, { minLength: 1, maxLength: 10 }), { minLength: 3, maxLength: 8 })
  .map((rounds) => [FUNDING, ...rounds])
