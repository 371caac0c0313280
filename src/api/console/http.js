/*
 * Calls of the API, with the token if there is one. It is kept for this tab only.
 */
import { find, findForm } from './element.js'

const KEPT = 'transfer token'

/** A problem as the API describes it (RFC 9457). */
export class ApiProblem extends Error {
  /** @param {number} status @param {string} message */
  constructor(status, message) {
    super(message)
    this.status = status
  }
}

/**
 * @param {string} path
 * @param {{ method?: string, body?: object, headers?: Record<string, string>, signal?: AbortSignal }} [options]
 * @returns {Promise<Response>} one that went well
 */
export async function call(path, { method = 'GET', body, headers = {}, signal } = {}) {
  const token = sessionStorage.getItem(KEPT)
  const answer = await fetch(path, {
    method,
    cache: 'no-store',
    headers: {
      ...(body ? { 'Content-Type': 'application/json' } : {}),
      ...(token ? { Authorization: `Bearer ${token}` } : {}),
      ...headers,
    },
    ...(body ? { body: JSON.stringify(body) } : {}),
    ...(signal ? { signal } : {}),
  }).catch((error) => {
    throw signal?.aborted ? error : new Error('The API cannot be reached.')
  })
  if (answer.ok) return answer
  const problem = await answer.json().catch(() => ({}))
  if (answer.status === 401) ask(token ? problem.detail : '')
  throw new ApiProblem(answer.status, problem.detail ?? `The API answered ${answer.status}.`)
}

/** @param {string} path @param {Parameters<typeof call>[1]} [options] */
export async function read(path, options) {
  return await (await call(path, options)).json()
}

/** @param {string} why the last one was refused */
function ask(why) {
  find('access-problem').textContent = why
  const panel = find('access')
  if (!panel.hidden) return
  panel.hidden = false
  find('token').focus()
}

/** @param {() => void} then called with each new token */
export function onToken(then) {
  findForm('access-form').addEventListener('submit', (event) => {
    event.preventDefault()
    const input = /** @type {HTMLInputElement} */ (find('token'))
    sessionStorage.setItem(KEPT, input.value.trim())
    input.value = ''
    find('access').hidden = true
    find('main').focus()
    then()
  })
}
