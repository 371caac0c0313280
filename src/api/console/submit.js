/*
 * The forms: open accounts, submit a transfer and see each step as it happens.
 */
import {
  accountLink,
  amount,
  duration,
  element,
  failure,
  field,
  find,
  findForm,
  given,
  transferLink,
} from './element.js'
import { call, read } from './http.js'
import { outcome, readJob } from './transfer.js'

const WAIT_S = 20

export function startForms() {
  const form = findForm('transfer-form')
  const newKey = () => {
    field(form, 'key').value = crypto.randomUUID()
  }
  newKey()
  find('new-key').addEventListener('click', newKey)
  form.addEventListener('submit', (event) => {
    event.preventDefault()
    void busy(form, () => submit(form))
  })

  const opening = findForm('open-form')
  opening.addEventListener('submit', (event) => {
    event.preventDefault()
    const chosen = /** @type {HTMLButtonElement | null} */ (event.submitter)
    void busy(opening, () => open(opening, form, Number(chosen?.value ?? 1)))
  })
}

/** One at a time: the second click of a double click is not another transfer. @param {HTMLFormElement} form @param {() => Promise<void>} work */
async function busy(form, work) {
  if (form.getAttribute('aria-busy') === 'true') return
  form.setAttribute('aria-busy', 'true')
  await work()
  form.removeAttribute('aria-busy')
}

/** @param {HTMLFormElement} form */
async function submit(form) {
  const list = element('ol', { class: 'steps' })
  find('steps').replaceChildren(list)
  const began = performance.now()
  /** @param {string} name @param {string} kind @param {...(Node | string | null)} notes */
  const step = (name, kind, ...notes) => {
    const after = element('span', { class: 'quiet' }, `+${duration(performance.now() - began)}`)
    list.append(element('li', { class: `done ${kind}` }, element('b', {}, name), after, ...notes))
  }

  try {
    const key = given(form, 'key')
    const answer = await call('/transfers', {
      method: 'POST',
      body: { source: given(form, 'source'), destination: given(form, 'destination'), amount: given(form, 'amount') },
      headers: key ? { 'Idempotency-Key': headerText(key) } : {},
    })
    let transfer = await answer.json()
    const { job } = transfer
    if (answer.headers.get('Idempotent-Replayed')) {
      step('Replayed', '', quiet('200: this key was decided before, and nothing was moved again'))
    } else {
      step('Accepted', '', quiet('202: the queue has stored it'))
      step('Queued', '', quiet('job '), element('span', { class: 'id' }, job))
    }
    while (transfer.status === 'queued') {
      transfer = await read(`/transfers/${transfer.id}?job=${job}`, { headers: { Prefer: `wait=${WAIT_S}` } })
    }
    const title = transfer.status === 'posted' ? 'Posted' : 'Rejected'
    step(title, transfer.status, quiet(outcome(transfer.index, transfer.reason)))
    const at_server = serverTimes(await readJob(job))
    list.after(element('p', { class: 'quiet' }, 'Transfer ', transferLink(transfer.id, job), at_server))
  } catch (error) {
    list.after(failure(error))
  }
}

/** Where the time went, by the server's own clock. @param {import('./transfer.js').Job | null} job */
function serverTimes(job) {
  if (!job?.started_at) return ''
  const [submitted, started] = [job.submitted_at, job.started_at].map((at) => Date.parse(at))
  return `, taken up by a worker ${duration(Math.max(0, Number(started) - Number(submitted)))} after it was queued`
}

/** @param {HTMLFormElement} opening @param {HTMLFormElement} form the one for transfers @param {number} count */
async function open(opening, form, count) {
  const balance = given(opening, 'balance')
  const place = find('opened')
  try {
    const body = balance ? { balance } : {}
    const headers = { Prefer: `wait=${WAIT_S}` }
    const opened = await Promise.all(
      Array.from({ length: count }, () => read('/accounts', { method: 'POST', body, headers })),
    )
    const [first, second] = opened
    const to = second ?? first
    if (second || !given(form, 'source')) field(form, 'source').value = first.id
    if (second || (given(form, 'source') !== to.id && !given(form, 'destination')))
      field(form, 'destination').value = to.id
    place.replaceChildren(
      element(
        'ul',
        { class: 'opened' },
        ...opened.map((account) =>
          element(
            'li',
            {},
            accountLink(account.id),
            ' ',
            element('span', { class: 'n' }, account.funding ? amount(account.funding.amount) : amount('0')),
            account.funding?.status === 'queued' ? quiet(' on its way') : null,
          ),
        ),
      ),
    )
  } catch (error) {
    place.replaceChildren(failure(error))
  }
}

/** @param {string} text */
const quiet = (text) => element('span', { class: 'quiet' }, text)

/** A header's value may only be bytes: those of the key's UTF-8. @param {string} text */
const headerText = (text) => String.fromCharCode(...new TextEncoder().encode(text))
