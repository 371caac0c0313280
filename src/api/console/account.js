/*
 * One account: its balance at any moment, over time, and its statement.
 */
import { createChart } from './chart.js'
import { accountLink, amount, badge, element, facts, failure, moment, table, transferLink } from './element.js'
import { ApiProblem, read } from './http.js'

/** @typedef {{ id: string, direction: 'sent' | 'received', account: string, amount: string, index: number, status: string, reason?: string, recorded_at: string }} Line */

const POINTS = [160, 40, 10]
const SLIDER = 1000
const TYPING_MS = 150

/**
 * @param {HTMLElement} place
 * @param {string} id
 * @returns {Promise<() => void>} takes it down again
 */
export async function showAccount(place, id) {
  const path = `/accounts/${encodeURIComponent(id)}`
  const account = await read(path)
  const { balance } = await read(`${path}/balance`)
  const opened_ms = Date.parse(account.created_at)
  const now_ms = Math.max(Date.now(), opened_ms + 1000)

  const past = createPast(path, opened_ms, now_ms, balance)
  const canvas = element('div', {
    class: 'chart',
    role: 'img',
    'aria-label': 'Balance over time; the same as a table below',
  })
  const rows = element('tbody')
  const history = element(
    'details',
    {},
    element('summary', {}, 'As a table'),
    table(
      'Balance over time',
      [
        ['Moment, UTC', ''],
        ['Balance', 'n'],
      ],
      rows,
    ),
  )
  const statement = element('tbody')
  const more = element('button', { type: 'button', class: 'plain', click: () => void page() }, 'Older')
  const fault = element('div')

  place.append(
    facts([
      ['Account', element('span', { class: 'id' }, account.id)],
      ['Opened', moment(account.created_at)],
      ['May go below zero', account.overdraft ? 'yes' : null],
    ]),
    past,
    canvas,
    history,
    element('h3', {}, 'Statement'),
    table(
      'Statement, newest first',
      [
        ['Recorded, UTC', ''],
        ['', ''],
        ['Amount', 'n'],
        ['Other account', ''],
        ['Transfer', ''],
      ],
      statement,
    ),
    more,
    fault,
  )

  const chart = createChart(canvas, {
    lines: [{ label: 'Balance', colour: '--accent', fill: true, stepped: true }],
    height: 200,
    value: (value) => value.toLocaleString('en', { maximumFractionDigits: 2 }),
    signed: true,
  })

  async function drawHistory() {
    /** @type {{ at: string, balance: string | null }[]} */
    const points = await readHistory(path)
    // Drawn, an amount may be a float; written, it never is.
    chart.draw([
      points.map(({ at }) => Date.parse(at) / 1000),
      points.map((point) => (point.balance === null ? null : Number(point.balance))),
    ])
    const changes = points.filter((point, n) => n === 0 || point.balance !== points[n - 1]?.balance)
    rows.replaceChildren(
      ...changes
        .slice(-50)
        .map((point) =>
          element(
            'tr',
            {},
            element('th', { scope: 'row' }, moment(point.at)),
            element('td', { class: 'n' }, point.balance === null ? 'not open' : amount(point.balance)),
          ),
        ),
    )
  }

  let cursor = ''
  async function page() {
    more.setAttribute('disabled', '')
    try {
      const { transfers, next_cursor } = await read(`${path}/transfers?limit=20${cursor && `&cursor=${cursor}`}`)
      statement.append(...transfers.map(line))
      if (statement.children.length === 0) statement.append(nothing)
      cursor = next_cursor ?? ''
      more.hidden = next_cursor === null
      fault.replaceChildren()
    } catch (error) {
      fault.replaceChildren(failure(error))
    }
    more.removeAttribute('disabled')
  }
  const nothing = element('tr', {}, element('td', { colspan: '5', class: 'quiet' }, 'Nothing sent or received yet.'))

  await Promise.all([drawHistory().catch((error) => canvas.after(failure(error))), page()])
  return () => chart.remove()
}

/** Where a history is so long that many points take too long, fewer are asked for. @param {string} path */
async function readHistory(path) {
  for (const points of POINTS) {
    try {
      return (await read(`${path}/history?points=${points}`)).points
    } catch (error) {
      if (!(error instanceof ApiProblem) || error.status !== 503 || points === POINTS.at(-1)) throw error
    }
  }
}

/**
 * The balance, with a slider and an input that go back in time together.
 *
 * @param {string} path
 * @param {number} opened_ms
 * @param {number} now_ms
 * @param {string} balance the current one
 */
function createPast(path, opened_ms, now_ms, balance) {
  const shown = element('output', { class: 'figure', for: 'slider at' }, amount(balance))
  const when = element('p', { class: 'quiet', role: 'status' }, 'now')
  const slider = /** @type {HTMLInputElement} */ (
    element('input', { id: 'slider', type: 'range', min: '0', max: String(SLIDER), value: String(SLIDER), step: '1' })
  )
  const input = /** @type {HTMLInputElement} */ (
    element('input', { id: 'at', type: 'datetime-local', step: '0.001', min: local(opened_ms), max: local(now_ms) })
  )
  input.value = local(now_ms)
  let asked = 0
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer

  /** @param {string | null} at */
  function ask(at) {
    clearTimeout(timer)
    const own = ++asked
    timer = setTimeout(async () => {
      const answer = await read(`${path}/balance${at === null ? '' : `?at=${at}`}`).catch((error) => error)
      // Somebody who slides on wants only the last answer.
      if (own !== asked) return
      const failed = answer instanceof Error
      shown.textContent = failed ? '–' : amount(answer.balance)
      when.textContent = failed
        ? answer.message
        : at === null
          ? 'now'
          : `at ${at.replace('T', ' ').replace('Z', '')} UTC`
    }, TYPING_MS)
  }

  slider.addEventListener('input', () => {
    const at_ms = Math.round(opened_ms + ((now_ms - opened_ms) * Number(slider.value)) / SLIDER)
    input.value = local(at_ms)
    slider.setAttribute('aria-valuetext', `${local(at_ms).replace('T', ' ')} UTC`)
    ask(slider.value === String(SLIDER) ? null : new Date(Math.max(at_ms, opened_ms + 1)).toISOString())
  })
  input.addEventListener('change', () => {
    const at_ms = Date.parse(`${input.value}Z`)
    if (Number.isNaN(at_ms)) return
    slider.value = String(Math.round(((at_ms - opened_ms) * SLIDER) / (now_ms - opened_ms)))
    ask(new Date(at_ms).toISOString())
  })

  return element(
    'div',
    { class: 'past' },
    element('div', {}, element('p', { class: 'quiet' }, 'Balance'), shown, when),
    element(
      'div',
      { class: 'grow fields' },
      element('label', {}, 'Moment, UTC ', input),
      element('label', {}, 'Opening to now ', slider),
    ),
  )
}

/** As an input of type datetime-local has it. @param {number} epoch_ms */
const local = (epoch_ms) => new Date(epoch_ms).toISOString().slice(0, 23)

/** @param {Line} entry */
function line({ id, direction, account, amount: moved, status, reason, recorded_at }) {
  const sent = direction === 'sent'
  const sign = status === 'rejected' ? '' : sent ? '\u2212' : '+'
  return element(
    'tr',
    { class: status },
    element('td', {}, moment(recorded_at)),
    element('td', {}, status === 'rejected' ? badge(status, reason ?? null) : sent ? 'sent to' : 'received from'),
    element('td', { class: 'n amount' }, `${sign}${amount(moved)}`),
    element('td', {}, accountLink(account)),
    element('td', {}, transferLink(id)),
  )
}
