/*
 * The console: one page, whose address says what is looked at (#account=…, #transfer=…&job=…, #source=…&key=…).
 */
import { showAccount } from './account.js'
import { element, failure, find, findForm, given } from './element.js'
import { onToken } from './http.js'
import { startLive } from './live.js'
import { startForms } from './submit.js'
import { showTransfer } from './transfer.js'

let leaving = new AbortController()

/** @param {boolean} moved whether somebody went there, rather than reloaded */
async function show(moved) {
  leaving.abort()
  const own = new AbortController()
  leaving = own
  const asked = new URLSearchParams(location.hash.slice(1))
  const [account, transfer, source, key] = ['account', 'transfer', 'source', 'key'].map((name) => asked.get(name))
  const place = find('result')
  place.hidden = !(account || transfer || (source && key))
  if (place.hidden) return place.replaceChildren()

  const title = element('h2', { id: 'result-title', tabindex: '-1' }, account ? 'Account' : 'Transfer')
  const close = element('a', { href: '#', class: 'close' }, 'Close')
  const body = element('div', { class: 'body' })
  place.replaceChildren(element('div', { class: 'heading' }, title, close), body)
  place.setAttribute('aria-busy', 'true')
  title.focus({ preventScroll: true })
  if (moved) place.scrollIntoView({ block: 'start' })
  try {
    if (account) {
      const remove = await showAccount(body, account)
      own.signal.addEventListener('abort', remove)
      if (own.signal.aborted) remove()
    } else {
      const path = transfer
        ? `/transfers/${encodeURIComponent(transfer)}`
        : `/transfers?${new URLSearchParams({ source: source ?? '', key: key ?? '' })}`
      await showTransfer(body, { path, job: asked.get('job') ?? undefined, signal: own.signal })
    }
  } catch (error) {
    if (!own.signal.aborted) body.replaceChildren(failure(error))
  }
  if (!own.signal.aborted) place.removeAttribute('aria-busy')
}

/** @param {string} id of a form that only goes somewhere @param {...string} names of its fields */
function goTo(id, ...names) {
  const form = findForm(id)
  form.addEventListener('submit', (event) => {
    event.preventDefault()
    const hash = `#${new URLSearchParams(names.map((name) => [name, given(form, name)]))}`
    if (location.hash === hash) void show(true)
    else location.hash = hash
  })
}

goTo('account-form', 'account')
goTo('id-form', 'transfer')
goTo('key-form', 'source', 'key')
startForms()
const live = startLive()
onToken(() => {
  live.restart()
  void show(false)
})
// The skip link is an address, too, and leads nowhere else.
addEventListener('hashchange', () => location.hash !== '#main' && void show(true))
if (location.hash) void show(false)
