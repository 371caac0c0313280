/*
 * A specimen: small books in which everything occurs (postings, rejections of each kind, an overdraft, closings), laid
 * open to be tampered with.
 *
 * Next: tampering.ts.
 */
import { randomUUID } from 'node:crypto'
import type pg from 'pg'
import { SERVICE_ACCOUNT } from '../../src/transfer.ts'
import { open, post, request } from './books.ts'
import { until } from './harness.ts'

/** Accounts of the books; the ghost was never opened. */
export type Names = Record<'payer' | 'payee' | 'shop' | 'debtor' | 'ghost' | 'service', string>

const TABLES = ['account', 'transfer', 'credit', 'closing']

/** Each posting in a transaction of its own, as the service does it, at a moment of its own. */
export async function keepBooks(db: pg.Pool): Promise<Names> {
  const [payer, payee] = [await open(db, '100'), await open(db, '50')]
  const [shop, debtor, ghost] = [await open(db), await open(db, undefined, { overdraft: true }), randomUUID()]
  const pay = async (source: string, destination: string, amount: string, outcome = 'posted') => {
    const [found] = await post(db, [request(source, destination, amount)])
    if (found !== outcome) throw new Error(`${amount}: ${found} instead of ${outcome}`)
  }
  // A transaction of another test may hold back the horizon for a while; a closing must have all there is.
  const close = async (account: string) => {
    const ended = 'SELECT pg_snapshot_xmin(pg_current_snapshot()) > max(xid) AS all FROM ledger.credit'
    await until(async () => (await db.query(ended)).rows[0].all)
    await db.query('SELECT ledger.close_books($1)', [[account]])
  }

  await pay(payer, payee, '10.5')
  await pay(payer, shop, '20')
  await pay(payer, payee, '500', 'insufficient_funds')
  await pay(payer, ghost, '1', 'unknown_destination')
  await pay(payer, shop, '5.00000001')
  await pay(ghost, payer, '1', 'unknown_source')
  await pay(ghost, payer, '2', 'unknown_source')
  await pay(debtor, payer, '40')
  await close(payee)
  await pay(payee, shop, '60')
  await close(shop)
  await pay(payer, payee, '7')
  await close(payee)
  await pay(payee, shop, '3')
  return { payer, payee, shop, debtor, ghost, service: SERVICE_ACCOUNT }
}

/** Takes every safeguard off, as a superuser would, after noting what is there. */
export async function layOpen(db: pg.Pool): Promise<void> {
  await db.query('CREATE SCHEMA kept')
  for (const table of TABLES) {
    await db.query(
      `CREATE TABLE kept.${table} AS TABLE ledger.${table}; ALTER TABLE ledger.${table} DISABLE TRIGGER ALL`,
    )
  }
  await db.query(`
    ALTER TABLE ledger.transfer DROP CONSTRAINT transfer_pkey, DROP CONSTRAINT transfer_id_source_key,
      DROP CONSTRAINT transfer_amount_check, DROP CONSTRAINT transfer_index_check, DROP CONSTRAINT transfer_check;
    CREATE INDEX ON ledger.transfer (source, index)`)
}

/** Leaves the books as they were before they were tampered with. */
export async function putBack(db: pg.Pool): Promise<void> {
  for (const table of TABLES) {
    await db.query(`DELETE FROM ledger.${table}; INSERT INTO ledger.${table} SELECT * FROM kept.${table}`)
  }
}

export const at = (source: string, index: number) => `source = '${source}' AND index = ${index}`
