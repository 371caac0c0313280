/*
 * The other pages in a real browser: the documentation and the dashboard draw what they are for, nothing of them comes
 * from or goes to anywhere else, and their policies are in the way of nothing that is needed. And the console of a service
 * that wants tokens.
 */
import { hash } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import anyTest, { type TestFn } from 'ava'
import { browserPath, openBrowser, strays, watch } from './support/chromium.ts'
import { createClient } from './support/client.ts'
import { backends, type Service, startService } from './support/harness.ts'

const test = anyTest as TestFn
// One browser, one page at a time: only the page in front is drawn.
const trial = browserPath ? test.serial : test.skip

let service: Service
let browser: Awaited<ReturnType<typeof openBrowser>>

test.before('start', async () => {
  if (!browserPath) return
  service = await startService({ backend: backends.at(-1) ?? 'postgres' })
  browser = await openBrowser(browserPath)
})

test.after.always('stop', async () => {
  await browser?.close()
  await service?.stop()
})

const visit = (path: string) => watch(browser.context, `${service.url}${path}`)

trial('Swagger UI shows the operations, and tries one', async (t) => {
  const { page, requests, errors, violations } = await visit('/docs')
  const operation = page.locator('.opblock', { hasText: 'Submit a transfer' }).first()
  await operation.waitFor()
  t.true((await page.locator('.opblock').count()) > 10)
  const health = page.locator('.opblock').filter({ has: page.locator('[data-path="/health"]') })
  await health.getByRole('button').first().click()
  await health.getByRole('button', { name: 'Try it out' }).click()
  await health.getByRole('button', { name: 'Execute' }).click()
  await health.locator('.live-responses-table .response-col_status', { hasText: '204' }).waitFor()
  t.true(requests.includes(`${service.url}/health`))
  t.deepEqual(strays(requests, service.url), [])
  t.deepEqual(await violations(), [])
  t.deepEqual(errors, [])
  await page.close()
})

/** Its maker's logo; and it tries whether it may evaluate text, and does without. */
const LOGO = 'https://cdn.redoc.ly/redoc/logo-mini-full.svg'

trial("ReDoc shows the operations; its maker's logo is not fetched", async (t) => {
  const { page, requests, errors, violations } = await visit('/redoc')
  await page.getByText('Transfers', { exact: true }).first().click()
  await page.getByText('Submit a transfer').first().click()
  await page.getByRole('heading', { name: 'Submit a transfer' }).first().waitFor()
  await page.getByText('Idempotency-Key').first().waitFor()
  t.true(requests.includes(`${service.url}/openapi.json`))
  t.deepEqual(strays(requests, service.url), [])
  t.deepEqual(
    (await violations()).filter((what) => what !== 'eval' && what !== LOGO),
    [],
  )
  t.deepEqual(
    errors.filter((error) => !error.includes(LOGO) && !/script-src|'unsafe-eval'/.test(error)),
    [],
  )
  await page.close()
})

/** What the dashboard's page names that is elsewhere. */
const FONTS = /^https:\/\/fonts\.googleapis\.com\//

trial('the dashboard shows the queue; the fonts that it names elsewhere are not fetched', async (t) => {
  const http = createClient(service.url)
  const [source, destination] = [await http.open('10'), await http.open()]
  await http.transfer(source, destination, '1')
  const { page, requests, errors, violations } = await visit('/dashboard')
  await page.getByText(service.settings.QUEUE_NAME).first().waitFor()
  await page.goto(`${service.url}/dashboard/queue/${service.settings.QUEUE_NAME}?status=completed`)
  await page.getByText('post', { exact: true }).first().waitFor()
  t.deepEqual(strays(requests, service.url), [])
  const stopped = await violations()
  t.is(stopped.length, 1)
  t.regex(stopped[0] ?? '', FONTS)
  t.true(errors.length > 0)
  t.deepEqual(
    errors.filter((error) => !/stylesheet 'https:\/\/fonts\.googleapis\.com/.test(error)),
    [],
  )
  await page.close()
})

trial('a service that wants tokens: its console asks for one, and works with it', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'transfer-page-'))
  t.teardown(() => rm(folder, { recursive: true }))
  const file = join(folder, 'tokens.json')
  const scopes = ['accounts:write', 'transfers:write', 'read', 'operate']
  await writeFile(file, JSON.stringify([{ name: 'boss', scopes, sha256: hash('sha256', 'a-secret-token') }]))
  const guarded = await startService({ backend: 'postgres', settings: { AUTH_TOKENS_FILE: file } })
  t.teardown(guarded.stop)
  const { page, requests, errors } = await watch(browser.context, guarded.url)
  const token = page.getByRole('textbox', { name: 'Token' })
  await token.waitFor()
  t.true(errors.every((error) => error.includes('401')))

  await token.fill('a-wrong-token')
  const refused = page.waitForResponse((response) => response.status() === 401)
  await page.getByRole('button', { name: 'Use it' }).click()
  await refused
  await token.waitFor()
  await token.fill('a-secret-token')
  await page.getByRole('button', { name: 'Use it' }).click()
  await page.locator('#connection', { hasText: 'Live' }).waitFor()
  t.true(await token.isHidden())

  await page.getByRole('button', { name: 'Open two' }).click()
  await page.getByLabel('Accounts opened here').getByRole('link').nth(1).waitFor()
  await page.getByRole('button', { name: 'Submit' }).click()
  await page.getByLabel('What became of it').getByText('Posted').waitFor()
  const { rows } = await guarded.pool.query('SELECT DISTINCT owner FROM ledger.account WHERE owner IS NOT NULL')
  t.deepEqual(rows, [{ owner: 'boss' }])
  // A token in an address would end up in logs.
  t.deepEqual(
    requests.filter((url) => url.includes('token')),
    [],
  )
  await page.close()
})
