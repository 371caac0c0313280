/*
 * What the system is doing: the stream of readings, and the tiles, chart and table they go to.
 */
import { createChart } from './chart.js'
import { amount, duration, element, find, perSecond, table } from './element.js'
import { call } from './http.js'

/** @typedef {import('../live.ts').Sample} Sample */

const SHOWN_S = 120
const ROWS = 10
const PATIENCE_MS = 5000
const PAUSE_LIMIT_MS = 15_000

/** @returns {{ restart(): void }} */
export function startLive() {
  /** @type {Sample[]} */
  let samples = []
  let watching = new AbortController()
  let pause_ms = 0
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer

  const chart = createChart(find('live-chart'), {
    lines: [
      { label: 'Posted', colour: '--posted', fill: true },
      { label: 'Rejected', colour: '--rejected' },
      { label: 'Submitted', colour: '--submitted' },
    ],
    height: 240,
    value: perSecond,
  })

  const rows = element('tbody')
  const heads = ['Submitted/s', 'Posted/s', 'Rejected/s', 'p50', 'p99', 'Queue']
  find('live-table').append(table('The last readings, newest first', [['Time, UTC', ''], ...heads.map(numeric)], rows))

  /** @param {Sample} sample */
  function take(sample) {
    // After a reconnection the past is sent again.
    if (samples.some(({ at }) => at >= sample.at)) return
    samples = [...samples, sample].filter(({ at }) => Date.parse(sample.at) - Date.parse(at) <= SHOWN_S * 1000)
    pause_ms = 0
    say('Live', 'good')
    show(sample)
    const now_s = Date.parse(sample.at) / 1000
    // The chart is two minutes wide from the start, and moves.
    chart.draw([
      [now_s - SHOWN_S, ...samples.map(({ at }) => Date.parse(at) / 1000)],
      [null, ...samples.map((one) => one.posted_per_s)],
      [null, ...samples.map((one) => one.rejected_per_s)],
      [null, ...samples.map((one) => one.submitted_per_s)],
    ])
    rows.replaceChildren(...samples.slice(-ROWS).reverse().map(row))
  }

  async function watch() {
    const own = new AbortController()
    watching = own
    const patience = () => setTimeout(() => own.abort(), PATIENCE_MS)
    let waiting = patience()
    try {
      const answer = await call('/live', { signal: own.signal })
      const reader = answer.body?.pipeThrough(new TextDecoderStream()).getReader()
      let text = ''
      for (;;) {
        const { value, done } = (await reader?.read()) ?? { done: true }
        if (done) break
        clearTimeout(waiting)
        waiting = patience()
        const events = (text + value).split('\n\n')
        text = events.pop() ?? ''
        for (const event of events) if (event.startsWith('data: ')) take(JSON.parse(event.slice(6)))
      }
    } catch {
      // Said below, whatever it was: there is nothing to do but to try again.
    }
    clearTimeout(waiting)
    if (own === watching) again()
  }

  function again() {
    if (document.hidden) return say('Paused', '')
    pause_ms = Math.min(PAUSE_LIMIT_MS, Math.max(500, pause_ms * 2))
    say(find('access').hidden ? `Reconnecting in ${Math.ceil(pause_ms / 1000)} s` : 'Not signed in', 'bad')
    timer = setTimeout(watch, pause_ms)
  }

  function restart() {
    clearTimeout(timer)
    watching.abort()
    pause_ms = 0
    say('Connecting', '')
    void watch()
  }

  // Nobody watches a hidden page: then nothing is read for it.
  document.addEventListener('visibilitychange', () => {
    if (!document.hidden) return restart()
    clearTimeout(timer)
    watching.abort()
  })
  void watch()
  return { restart }
}

/** Written only when it changes, so that it is not read out again. @param {string} text @param {string} mood */
function say(text, mood) {
  const pill = find('connection')
  if (pill.textContent === text) return
  pill.textContent = text
  pill.className = `pill ${mood}`
}

/** @param {Sample} sample */
function show(sample) {
  const { queue, balance_sum, balance_sum_problem, down } = sample
  write('posted', perSecond(sample.posted_per_s))
  write('rejected', perSecond(sample.rejected_per_s))
  write('submitted', perSecond(sample.submitted_per_s))
  write('latency', sample.latency_jobs ? `${number(sample.latency_ms_p50)} / ${number(sample.latency_ms_p99)}` : '–')
  write(
    'latency-note',
    sample.latency_jobs
      ? `ms, p50 / p99 of ${sample.latency_jobs.toLocaleString('en')} jobs`
      : 'p50 / p99, no job lately',
  )
  write('queue', queue ? (queue.waiting + queue.active).toLocaleString('en') : '–')
  write(
    'queue-note',
    queue ? `jobs, ${queue.active} in hand${queue.failed ? `, ${queue.failed} failed` : ''}` : 'not known',
  )
  write('deadlocks', sample.deadlocks === null ? '–' : sample.deadlocks.toLocaleString('en'))
  find('deadlocks').className = sample.deadlocks ? 'bad' : ''
  write('sum', balance_sum ? amount(balance_sum.value) : '–')
  find('sum').className = balance_sum && Number(balance_sum.value) !== 0 ? 'bad' : ''
  const asOf = balance_sum
    ? `${balance_sum.accounts.toLocaleString('en')} accounts, as of ${balance_sum.at.slice(11, 19)} UTC, in ${duration(balance_sum.duration_ms)}`
    : 'being added up'
  write('sum-note', balance_sum_problem ? `${asOf}; then ${balance_sum_problem}` : asOf)
  const alarm = find('down')
  const text =
    down.length > 0
      ? `Not reachable: ${down.join(' and ')}. What was accepted is safe, and goes on when it is back.`
      : ''
  if (alarm.textContent !== text) alarm.textContent = text
  alarm.hidden = down.length === 0
}

/** @param {string} id @param {string} text */
function write(id, text) {
  find(id).textContent = text
}

/** @param {number | null} ms */
const number = (ms) => (ms === null ? '–' : ms.toLocaleString('en', { maximumFractionDigits: 0 }))

/** A column of figures. @param {string} head @returns {[string, string]} */
const numeric = (head) => [head, 'n']

/** @param {Sample} sample */
function row({ at, submitted_per_s, posted_per_s, rejected_per_s, latency_ms_p50, latency_ms_p99, queue }) {
  const depth = queue ? String(queue.waiting + queue.active) : '–'
  const cells = [
    ...[submitted_per_s, posted_per_s, rejected_per_s].map(perSecond),
    ...[latency_ms_p50, latency_ms_p99].map(duration),
    depth,
  ]
  return element(
    'tr',
    {},
    element('th', { scope: 'row' }, at.slice(11, 19)),
    ...cells.map((cell) => element('td', { class: 'n' }, cell)),
  )
}
