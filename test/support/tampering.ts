/*
 * Tampering: the ways in which a superuser, with triggers and constraints off, may change the books of specimen.ts behind
 * the ledger's back, and what must be found of each.
 */
import { at, type Names } from './specimen.ts'

type Named = Record<string, Record<string, unknown>>
/** What was done; the rules that must say so, no more and no fewer, and what each must name. */
type Tampering = [what: string, sql: (names: Names) => string, named: (names: Names) => Named]

export const TAMPERINGS: Tampering[] = [
  [
    'a transfer has another amount',
    ({ payer }) => `UPDATE ledger.transfer SET amount = 10.4 WHERE ${at(payer, 0)}`,
    ({ payer, payee }) => ({
      chains: { source: payer, index: 0, expected_spent: 10.4 },
      'double entry': { source: payer, index: 0, amount: 10.4, credit_amount: 10.5 },
      balances: { account: payee, balance: 4.5, derived: 4.4 },
    }),
  ],
  [
    'a transfer, what it spent and its credit have another amount',
    ({ payer }) => `
      UPDATE ledger.transfer SET amount = 8, spent = 8 WHERE ${at(payer, 0)};
      UPDATE ledger.credit SET amount = 8 WHERE ${at(payer, 0)}`,
    ({ payer, payee }) => ({
      chains: { source: payer, index: 1, expected_spent: 28 },
      funds: { account: payee, spent: 60, received_before: 58 },
      past: { account: payee, index: 0, balance: -2 },
      balances: { account: payee, balance: 4.5, derived: 2 },
      closings: { account: payee, received: 60.5, expected: 58 },
    }),
  ],
  [
    'a transfer in the middle of a chain is gone',
    ({ payer }) => `DELETE FROM ledger.transfer WHERE ${at(payer, 1)}`,
    ({ payer, shop }) => ({
      chains: { source: payer, index: 2, expected_index: 1, spent: 30.5, expected_spent: 10.5 },
      'double entry': { source: null, credit_source: payer, credit_index: 1, credited: shop },
      balances: { account: shop, balance: 88.00000001, derived: 68.00000001 },
    }),
  ],
  [
    'the last transfer of a chain is gone: its credit tells',
    ({ payee }) => `DELETE FROM ledger.transfer WHERE ${at(payee, 1)}`,
    ({ payee, shop }) => ({
      'double entry': { source: null, credit_source: payee, credit_index: 1 },
      balances: { account: shop, balance: 88.00000001, derived: 85.00000001 },
      sum: { sum: 3 },
    }),
  ],
  [
    'the last transfer of a chain is gone, and its credit: the closing that counted it tells',
    ({ payer }) => `
      DELETE FROM ledger.transfer WHERE ${at(payer, 5)};
      DELETE FROM ledger.credit WHERE ${at(payer, 5)}`,
    ({ payee }) => ({
      funds: { account: payee, received_before: 60.5, spent_by_then: 63 },
      past: { account: payee, index: 1, balance: -2.5 },
      balances: { account: payee, balance: 4.5, derived: -2.5 },
      sum: { sum: 7 },
      closings: { account: payee, received: 67.5, expected: 60.5 },
    }),
  ],
  [
    'a rejection in the middle of a chain is gone',
    ({ payer }) => `DELETE FROM ledger.transfer WHERE ${at(payer, 3)}`,
    ({ payer }) => ({ chains: { source: payer, index: 4, expected_index: 3 } }),
  ],
  [
    'a transfer is moved to a later index',
    ({ payee }) => `
      UPDATE ledger.transfer SET index = 7 WHERE ${at(payee, 1)};
      UPDATE ledger.credit SET index = 7 WHERE ${at(payee, 1)}`,
    ({ payee }) => ({ chains: { source: payee, index: 7, expected_index: 1 } }),
  ],
  [
    'a transfer is there twice, under one index',
    ({ payer }) => `INSERT INTO ledger.transfer SELECT * FROM ledger.transfer WHERE ${at(payer, 0)}`,
    ({ payer, payee }) => ({
      chains: { source: payer, index: 0, expected_index: 1 },
      ids: { source: payer, index: 0 },
      balances: { account: payee, balance: 4.5, derived: 15 },
    }),
  ],
  [
    'two transfers have one id',
    ({ payee, payer }) => `
      UPDATE ledger.transfer SET id = (SELECT id FROM ledger.transfer WHERE ${at(payer, 0)}) WHERE ${at(payee, 0)}`,
    ({ payee }) => ({ ids: { source: payee, index: 0 } }),
  ],
  [
    'a credit is gone',
    ({ payer }) => `DELETE FROM ledger.credit WHERE ${at(payer, 4)}`,
    ({ payer, shop }) => ({
      'double entry': { source: payer, index: 4, credit_source: null },
      closings: { account: shop, received: 85.00000001, expected: 80 },
    }),
  ],
  [
    'a credit is there twice',
    ({ payee }) => `INSERT INTO ledger.credit SELECT * FROM ledger.credit WHERE ${at(payee, 1)}`,
    ({ payee, shop }) => ({
      'double entry': { source: payee, index: 1, copies: 2 },
      balances: { account: shop, balance: 91.00000001, derived: 88.00000001 },
      sum: { sum: 3 },
    }),
  ],
  [
    'a credit has another amount',
    ({ payee }) => `UPDATE ledger.credit SET amount = 3.00000001 WHERE ${at(payee, 1)}`,
    ({ payee, shop }) => ({
      'double entry': { source: payee, index: 1, amount: 3, credit_amount: 3.00000001 },
      balances: { account: shop, balance: 88.00000002, derived: 88.00000001 },
      sum: { sum: 0.00000001 },
    }),
  ],
  [
    'a credit is in the book of another',
    ({ payee, payer }) => `UPDATE ledger.credit SET destination = '${payer}' WHERE ${at(payee, 1)}`,
    ({ payee, payer, shop }) => ({
      'double entry': { source: payee, index: 1, destination: shop, credited: payer },
      balances: { account: payer, balance: 100.49999999, derived: 97.49999999 },
    }),
  ],
  [
    'a credit has no transfer',
    ({ payer, shop }) => `
      INSERT INTO ledger.credit (destination, source, index, amount, recorded_at)
      VALUES ('${shop}', '${payer}', 6, 1000, clock_timestamp())`,
    ({ payer, shop }) => ({
      'double entry': { source: null, credit_source: payer, credit_index: 6, credited: shop },
      funds: { account: payer, spent: 1000 },
      balances: { account: shop, balance: 1088.00000001 },
      sum: { sum: 1000 },
    }),
  ],
  [
    'a credit was written by a transaction that is still to come: no closing would count it',
    ({ payee }) => `UPDATE ledger.credit SET xid = '9999999999' WHERE ${at(payee, 1)}`,
    ({ payee }) => ({ 'double entry': { source: payee, index: 1, xid: '9999999999' } }),
  ],
  [
    'a credit is older than the closing that should have counted it',
    ({ payee }) => `UPDATE ledger.credit SET xid = '4' WHERE ${at(payee, 1)}`,
    ({ payee, shop }) => ({
      funds: { account: payee, xid: '4', received_before: 0, spent: 3 },
      balances: { account: shop, balance: 85.00000001, derived: 88.00000001 },
      sum: { sum: -3 },
      closings: { account: shop, received: 85.00000001, expected: 88.00000001 },
    }),
  ],
  [
    'a destination has changed',
    ({ payee, payer }) => `UPDATE ledger.transfer SET destination = '${payer}' WHERE ${at(payee, 1)}`,
    ({ payee, payer, shop }) => ({
      'double entry': { source: payee, index: 1, destination: payer, credited: shop },
      balances: { account: payer, derived: 100.49999999 },
    }),
  ],
  [
    'a destination was never opened',
    ({ payee, ghost }) => `
      UPDATE ledger.transfer SET destination = '${ghost}' WHERE ${at(payee, 1)};
      UPDATE ledger.credit SET destination = '${ghost}' WHERE ${at(payee, 1)}`,
    ({ payee, ghost }) => ({
      transfers: { source: payee, index: 1, destination: ghost, destination_open: false },
      sum: { sum: -3 },
    }),
  ],
  [
    'a posting is made a rejection',
    ({ payee }) => `UPDATE ledger.transfer SET reason = 'insufficient_funds' WHERE ${at(payee, 1)}`,
    ({ payee, shop }) => ({
      chains: { source: payee, index: 1, spent: 63, expected_spent: 60 },
      'double entry': { source: null, credit_source: payee, credit_index: 1 },
      balances: { account: shop, derived: 85.00000001 },
    }),
  ],
  [
    'a rejection is made a posting',
    ({ payer }) => `UPDATE ledger.transfer SET reason = NULL WHERE ${at(payer, 3)}`,
    ({ payer, ghost }) => ({
      chains: { source: payer, index: 3, expected_spent: 31.5 },
      transfers: { source: payer, index: 3, destination: ghost, destination_open: false },
      'double entry': { source: payer, index: 3, credit_source: null },
      balances: { account: payer },
    }),
  ],
  [
    'a rejection has spent',
    ({ payer }) => `UPDATE ledger.transfer SET spent = spent + amount WHERE ${at(payer, 2)}`,
    ({ payer }) => ({ chains: { source: payer, index: 2, reason: 'insufficient_funds', expected_spent: 30.5 } }),
  ],
  [
    'a rejection has a credit',
    ({ payer }) => `
      INSERT INTO ledger.credit (destination, source, index, amount, recorded_at)
      SELECT destination, source, index, amount, recorded_at FROM ledger.transfer WHERE ${at(payer, 2)}`,
    ({ payer, payee }) => ({
      'double entry': { source: null, credit_source: payer, credit_index: 2 },
      funds: { account: payer, spent: 500 },
      balances: { account: payee, balance: 504.5 },
      sum: { sum: 500 },
    }),
  ],
  [
    'a rejection does not know its own source',
    ({ payer }) => `UPDATE ledger.transfer SET reason = 'unknown_source' WHERE ${at(payer, 2)}`,
    ({ payer }) => ({ chains: { source: payer, index: 2, known: true } }),
  ],
  [
    'a rejection for want of funds had an overdraft',
    ({ debtor, payer }) => `
      INSERT INTO ledger.transfer (source, index, id, destination, amount, spent, reason, recorded_at)
      VALUES ('${debtor}', 1, gen_random_uuid(), '${payer}', 1, 40, 'insufficient_funds', clock_timestamp())`,
    ({ debtor }) => ({ transfers: { source: debtor, index: 1 } }),
  ],
  [
    '`spent` of the last transfer is less, so that there is more to spend',
    ({ payee }) => `UPDATE ledger.transfer SET spent = 0 WHERE ${at(payee, 1)}`,
    ({ payee }) => ({
      chains: { source: payee, index: 1, spent: 0, expected_spent: 63 },
      balances: { account: payee, balance: 67.5, derived: 4.5 },
      sum: { sum: 63 },
    }),
  ],
  [
    '`spent` is not a number',
    ({ payer }) => `UPDATE ledger.transfer SET spent = 'NaN' WHERE ${at(payer, 0)}`,
    ({ payer }) => ({ chains: { source: payer, index: 0, spent: 'NaN' } }),
  ],
  [
    'a posting was forged at the end of a chain, beyond its funds, double entry and all',
    ({ payee, shop }) => `
      INSERT INTO ledger.transfer (source, index, id, destination, amount, spent, recorded_at)
      VALUES ('${payee}', 2, gen_random_uuid(), '${shop}', 4.50000001, 67.50000001, clock_timestamp());
      INSERT INTO ledger.credit (destination, source, index, amount, recorded_at)
      SELECT destination, source, index, amount, recorded_at FROM ledger.transfer WHERE ${at(payee, 2)}`,
    ({ payee }) => ({
      funds: { account: payee, received_before: 67.5, spent_by_then: 67.50000001 },
      past: { account: payee, index: 2, balance: -0.00000001 },
      balances: { account: payee, balance: -0.00000001, derived: -0.00000001 },
    }),
  ],
  [
    'an amount was turned round, in both books',
    ({ debtor }) => `
      UPDATE ledger.transfer SET amount = -40, spent = -40 WHERE ${at(debtor, 0)};
      UPDATE ledger.credit SET amount = -40 WHERE ${at(debtor, 0)}`,
    ({ debtor }) => ({ transfers: { source: debtor, index: 0, amount: -40 } }),
  ],
  [
    'an amount is finer than money is',
    ({ payer }) => `UPDATE ledger.transfer SET amount = 0.000000001 WHERE ${at(payer, 3)}`,
    ({ payer }) => ({ transfers: { source: payer, index: 3 } }),
  ],
  [
    'an account pays itself',
    ({ payer }) => `UPDATE ledger.transfer SET destination = source WHERE ${at(payer, 2)}`,
    ({ payer }) => ({ transfers: { source: payer, index: 2, destination: payer } }),
  ],
  [
    'a moment lies before the one before it, in both books',
    ({ payer }) => `
      UPDATE ledger.transfer SET recorded_at = recorded_at - interval '1 hour' WHERE ${at(payer, 4)};
      UPDATE ledger.credit SET recorded_at = recorded_at - interval '1 hour' WHERE ${at(payer, 4)}`,
    ({ payer }) => ({
      chains: { source: payer, index: 4 },
      past: { account: payer, index: 4, amount: -5.00000001, balance: -5.00000001 },
    }),
  ],
  [
    'a moment lies before the credits that were spent, in both books',
    ({ payee }) => `
      UPDATE ledger.transfer SET recorded_at = recorded_at - interval '1 hour' WHERE ${at(payee, 0)};
      UPDATE ledger.credit SET recorded_at = recorded_at - interval '1 hour' WHERE ${at(payee, 0)}`,
    ({ payee }) => ({ past: { account: payee, index: 0, amount: -60, balance: -60 } }),
  ],
  [
    'a moment differs between the books',
    ({ payee }) =>
      `UPDATE ledger.credit SET recorded_at = recorded_at + interval '1 microsecond' WHERE ${at(payee, 1)}`,
    ({ payee }) => ({ 'double entry': { source: payee, index: 1 } }),
  ],
  [
    'the order of transactions has changed, so that money was spent before it came',
    ({ payer }) =>
      `UPDATE ledger.credit SET xid = (SELECT xid FROM ledger.credit ORDER BY xid DESC LIMIT 1) WHERE ${at(payer, 0)}`,
    ({ payee }) => ({
      funds: { account: payee, received_before: 50, spent_by_then: 60 },
      balances: { account: payee, balance: 15, derived: 4.5 },
      sum: { sum: 10.5 },
      closings: { account: payee, received: 60.5, expected: 50 },
    }),
  ],
  [
    'a closing claims more than was received',
    ({ shop }) => `UPDATE ledger.closing SET received = received + 100 WHERE account = '${shop}'`,
    ({ shop }) => ({
      balances: { account: shop, balance: 188.00000001, derived: 88.00000001 },
      sum: { sum: 100 },
      closings: { account: shop, received: 185.00000001, expected: 85.00000001 },
    }),
  ],
  [
    'an early closing claims more than was received, and no balance rests on it any more',
    ({ payee }) => `UPDATE ledger.closing SET received = 61 WHERE account = '${payee}' AND received = 60.5`,
    ({ payee }) => ({ closings: { account: payee, received: 61, expected: 60.5 } }),
  ],
  [
    'a closing lies ahead, and would hide the credits to come',
    ({ payer }) => `INSERT INTO ledger.closing (account, horizon, received) VALUES ('${payer}', '9999999999', 140)`,
    ({ payer }) => ({ closings: { account: payer, horizon: '9999999999', expected: 140 } }),
  ],
  [
    'an account is gone',
    ({ debtor }) => `DELETE FROM ledger.account WHERE id = '${debtor}'`,
    ({ debtor }) => ({ transfers: { source: debtor, index: 0, source_open: false }, sum: { sum: 40 } }),
  ],
  [
    'the overdraft of an account is gone',
    ({ debtor }) => `UPDATE ledger.account SET overdraft = false WHERE id = '${debtor}'`,
    ({ debtor }) => ({
      funds: { account: debtor, spent_by_then: 40, received_before: 0 },
      past: { account: debtor, index: 0, balance: -40 },
      balances: { account: debtor, balance: -40 },
    }),
  ],
]

/** The other half of the truth, as the audit's heading has it. */
export const UNFOUND: [what: string, sql: (names: Names) => string][] = [
  [
    'the end of a chain is cut off with its credit, and no closing has counted that',
    ({ payee }) => `
      DELETE FROM ledger.transfer WHERE ${at(payee, 1)};
      DELETE FROM ledger.credit WHERE ${at(payee, 1)}`,
  ],
  [
    'a transfer is changed in both books, with `spent` and whatever stands on it',
    ({ payee }) => `
      UPDATE ledger.transfer SET amount = 2, spent = 62 WHERE ${at(payee, 1)};
      UPDATE ledger.credit SET amount = 2 WHERE ${at(payee, 1)}`,
  ],
  [
    'a transfer goes to somebody else, in both books',
    ({ payee, payer }) => `
      UPDATE ledger.transfer SET destination = '${payer}' WHERE ${at(payee, 1)};
      UPDATE ledger.credit SET destination = '${payer}' WHERE ${at(payee, 1)}`,
  ],
  ['a rejection was for less', ({ payer }) => `UPDATE ledger.transfer SET amount = 1 WHERE ${at(payer, 2)}`],
  ['closings are dropped, as they may be', () => 'DELETE FROM ledger.closing'],
]

const STRANGER = 'eeeeeeee-eeee-4eee-8eee-eeeeeeeeeeee'

/** What each column of the money's own tables is changed to, one row at a time; and where nobody can tell. */
export const SWEEP: { table: 'transfer' | 'credit'; column: string; to: string; blind?: string }[] = [
  { table: 'transfer', column: 'source', to: `'${STRANGER}'` },
  { table: 'transfer', column: 'index', to: 'index + 1' },
  { table: 'transfer', column: 'index', to: 'index - 1' },
  { table: 'transfer', column: 'id', to: 'gen_random_uuid()', blind: 'true' },
  { table: 'transfer', column: 'destination', to: 'gen_random_uuid()', blind: "reason LIKE 'unknown%'" },
  { table: 'transfer', column: 'amount', to: 'amount + 0.00000001', blind: 'reason IS NOT NULL' },
  { table: 'transfer', column: 'amount', to: '-amount' },
  { table: 'transfer', column: 'amount', to: "'NaN'" },
  { table: 'transfer', column: 'amount', to: "'Infinity'" },
  { table: 'transfer', column: 'spent', to: 'spent + 0.00000001' },
  { table: 'transfer', column: 'spent', to: 'spent - 0.00000001' },
  { table: 'transfer', column: 'reason', to: "CASE WHEN reason IS NULL THEN 'insufficient_funds'::ledger.reason END" },
  {
    table: 'transfer',
    column: 'recorded_at',
    to: "recorded_at + interval '1 day'",
    blind: 'reason IS NOT NULL AND last',
  },
  {
    table: 'transfer',
    column: 'recorded_at',
    to: "recorded_at - interval '1 day'",
    blind: 'reason IS NOT NULL AND index = 0',
  },
  { table: 'credit', column: 'destination', to: 'gen_random_uuid()' },
  { table: 'credit', column: 'source', to: 'gen_random_uuid()' },
  { table: 'credit', column: 'index', to: 'index + 1' },
  { table: 'credit', column: 'amount', to: 'amount + 0.00000001' },
  { table: 'credit', column: 'amount', to: '-amount' },
  { table: 'credit', column: 'xid', to: "'99999999999'" },
  { table: 'credit', column: 'recorded_at', to: "recorded_at + interval '1 microsecond'" },
]

/** The row as it was or, where that was what changed, its neighbour in the chain or in the other book. */
export function isNamed(row: Record<string, unknown>, source: string, index: number, column: string): boolean {
  const pairs = [
    [row.source, row.index],
    [row.credit_source, row.credit_index],
    [row.account, row.index],
  ]
  const reach = ['index', 'source', 'recorded_at'].includes(column) ? 1 : 0
  return pairs.some(
    ([account, n]) => (account === source || account === STRANGER) && Math.abs(Number(n) - index) <= reach,
  )
}
