/*
 * Elements: made, found, and values written the way this page writes them. All moments are in UTC.
 */

/**
 * @param {string} tag
 * @param {Record<string, string | EventListener>} attributes a function listens to the event of that name
 * @param {...(Node | string | null)} children
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === 'string') made.setAttribute(name, value)
    else made.addEventListener(name, value)
  }
  made.append(...children.filter((child) => child !== null))
  return made
}

/**
 * @template {HTMLElement} [Kind=HTMLElement]
 * @param {string} id
 */
export function find(id) {
  const found = document.getElementById(id)
  if (!found) throw new Error(`no element ${id}`)
  return /** @type {Kind} */ (found)
}

/** @param {string} id */
export const findForm = (id) => /** @type {HTMLFormElement} */ (find(id))

/** @param {HTMLFormElement} form @param {string} name */
export const field = (form, name) => /** @type {HTMLInputElement} */ (form.elements.namedItem(name))

/** @param {HTMLFormElement} form @param {string} name */
export const given = (form, name) => field(form, name).value.trim()

/**
 * Keeps every digit: an amount never becomes a number. At least two places, thousands apart.
 *
 * @param {string} text
 */
export function amount(text) {
  const [, sign = '', whole = '0', places = ''] = /^(-?)(\d+)(?:\.(\d+))?$/.exec(text) ?? []
  const grouped = whole.replace(/\B(?=(\d{3})+$)/g, '\u202f')
  return `${sign ? '\u2212' : ''}${grouped}.${places.replace(/0+$/, '').padEnd(2, '0')}`
}

/** @param {number | null} value per second */
export function perSecond(value) {
  if (value === null) return '–'
  return value.toLocaleString('en', { maximumFractionDigits: value < 10 ? 1 : 0 })
}

/** @param {number | null} ms */
export function duration(ms) {
  if (ms === null) return '–'
  if (ms < 10_000) return `${ms.toLocaleString('en', { maximumFractionDigits: ms < 10 ? 1 : 0 })} ms`
  return `${(ms / 1000).toLocaleString('en', { maximumFractionDigits: 1 })} s`
}

/** As the API writes it, to the millisecond, the rest of it to be copied from the title. @param {string} at */
export function moment(at) {
  const [day = '', time = ''] = new Date(at).toISOString().slice(0, 23).split('T')
  return element('time', { datetime: at, title: at, class: 'moment' }, day, ' ', time)
}

/** @param {string} id */
export function accountLink(id) {
  const name = id === SERVICE_ACCOUNT ? 'service account' : id
  return element('a', { href: `#account=${id}`, class: 'id' }, name)
}

/** @param {string} id @param {string} [job] */
export function transferLink(id, job) {
  return element('a', { href: `#transfer=${id}${job ? `&job=${job}` : ''}`, class: 'id' }, id)
}

/** @param {string} status @param {string | null} [reason] */
export function badge(status, reason = null) {
  return element('span', { class: `badge ${status}` }, reason ? `${status}: ${reason.replaceAll('_', ' ')}` : status)
}

/** @param {[string, Node | string | null][]} pairs those without a value are left out */
export function facts(pairs) {
  const list = element('dl', { class: 'facts' })
  for (const [name, value] of pairs) if (value !== null) list.append(element('dt', {}, name), element('dd', {}, value))
  return list
}

/** Wide ones scroll in their place, by keyboard too. @param {string} caption @param {[string, string][]} heads @param {HTMLElement} body */
export function table(caption, heads, body) {
  return element(
    'div',
    { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': caption },
    element(
      'table',
      {},
      element('caption', { class: 'hidden' }, caption),
      element(
        'thead',
        {},
        element(
          'tr',
          {},
          ...heads.map(([head, kind]) =>
            element('th', { scope: 'col', class: kind }, head || element('span', { class: 'hidden' }, 'Direction')),
          ),
        ),
      ),
      body,
    ),
  )
}

/** @param {unknown} error */
export function failure(error) {
  return element('p', { class: 'alarm' }, error instanceof Error ? error.message : String(error))
}

const SERVICE_ACCOUNT = '00000000-0000-0000-0000-000000000000'
