/*
 * One transfer: its life from submission to decision. What is not known any more is said.
 */
import { accountLink, amount, badge, duration, element, facts, moment } from './element.js'
import { read } from './http.js'

/** @typedef {{ id: string, source: string, destination: string, amount: string, status: string, index?: number, reason?: string, recorded_at?: string, job?: string }} Transfer */
/** @typedef {{ id: string, state: string, attempts: number, transfers: number, submitted_at: string, started_at: string | null, finished_at: string | null, failure: string | null }} Job */

const WAIT_S = 20

/**
 * @param {HTMLElement} place
 * @param {{ path: string, job?: string | undefined, signal: AbortSignal }} asked
 */
export async function showTransfer(place, { path, job: hint, signal }) {
  const ask = `${path}${hint ? `${path.includes('?') ? '&' : '?'}job=${encodeURIComponent(hint)}` : ''}`
  /** @type {Transfer} */
  let transfer = await read(ask, { signal })
  const body = element('div', { role: 'status' })
  place.append(body)
  for (;;) {
    const job = await readJob(hint ?? transfer.job)
    if (signal.aborted) return
    body.replaceChildren(...describe(transfer, job, hint ?? transfer.job))
    if (transfer.status !== 'queued') return
    transfer = await read(ask, { headers: { Prefer: `wait=${WAIT_S}` }, signal })
  }
}

/** Null where it is not known, or not any more. @param {string | undefined} id @returns {Promise<Job | null>} */
export async function readJob(id) {
  return id === undefined ? null : await read(`/jobs/${encodeURIComponent(id)}`).catch(() => null)
}

/** @param {Transfer} transfer @param {Job | null} job @param {string | undefined} jobId */
function describe(transfer, job, jobId) {
  const { id, source, destination, status, index, reason, recorded_at } = transfer
  return [
    facts([
      ['Transfer', element('span', { class: 'id' }, id)],
      ['Status', badge(status, reason ?? null)],
      ['Amount', element('b', { class: 'n' }, amount(transfer.amount))],
      ['From', accountLink(source)],
      ['To', accountLink(destination)],
      ['Index', index === undefined ? null : `${index} in the chain of its source`],
    ]),
    element('h3', {}, 'Its life'),
    life(transfer, job, jobId, recorded_at),
  ]
}

/** @param {Transfer} transfer @param {Job | null} job @param {string | undefined} jobId @param {string | undefined} recorded_at */
function life({ id, status, index, reason }, job, jobId, recorded_at) {
  const drawn = drawnAt(id)
  const queued = job?.submitted_at ?? (jobId && drawnAt(jobId)) ?? null
  const began = drawn ?? queued
  const forgotten = jobId
    ? 'not known any more: finished jobs are kept for a short while only'
    : 'not known: only who submitted it was told its job'
  return element(
    'ol',
    { class: 'steps' },
    step('Submitted', began, null, began ? null : `${forgotten}, and an id made of a key tells no time`),
    step('Queued', queued, began, queued ? job && `in job ${job.id}, with ${job.transfers - 1} others` : forgotten),
    step('Started', job?.started_at ?? null, began, job ? (job.started_at ? null : 'not yet') : forgotten),
    recorded_at
      ? step(status === 'posted' ? 'Posted' : 'Rejected', recorded_at, began, outcome(index, reason), status)
      : step('Decided', null, null, job?.failure ? `failed: ${job.failure}` : 'not yet'),
  )
}

/** @param {number | undefined} index @param {string | undefined} reason */
export function outcome(index, reason) {
  return `${reason ? `${reason.replaceAll('_', ' ')}, ` : ''}index ${index}`
}

/**
 * @param {string} name
 * @param {string | null} at
 * @param {string | null} since what the duration counts from
 * @param {string | null} [note]
 * @param {string} [kind]
 */
function step(name, at, since, note = null, kind = '') {
  const after = at && since && at !== since ? Math.max(0, Date.parse(at) - Date.parse(since)) : null
  return element(
    'li',
    { class: at ? `done ${kind}` : '' },
    element('b', {}, name),
    at ? moment(at) : null,
    after === null ? null : element('span', { class: 'quiet' }, `+${duration(after)}`),
    note ? element('span', { class: 'quiet' }, note) : null,
  )
}

/** When an id was drawn, if it says so: UUIDv7 does, an id made of a key (UUIDv5) does not. @param {string} id */
function drawnAt(id) {
  return id[14] === '7' ? new Date(Number.parseInt(id.replaceAll('-', '').slice(0, 12), 16)).toISOString() : null
}
