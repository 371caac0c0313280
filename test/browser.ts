/*
 * The console in a real browser: what it promises to people, by mouse and keyboard, on a desk and on a phone, in the
 * light and in the dark, and that nothing of it comes from or goes to anywhere else.
 *
 * SCREENSHOTS=docs writes the pictures for the README there (`npm run screenshots`).
 */
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import anyTest, { type TestFn } from 'ava'
import type { Page } from 'playwright-core'
import { browserPath, openBrowser, strays, watch } from './support/chromium.ts'
import { type Client, createClient } from './support/client.ts'
import { backends, type Service, startService, until } from './support/harness.ts'

const test = anyTest as TestFn
const { SCREENSHOTS } = process.env
if (!browserPath) {
  console.log('No CHROMIUM_PATH, and no chromium, chromium-browser or google-chrome: the console is not tried in one.')
}
// One browser, one page at a time: only the page in front is drawn.
const trial = browserPath ? test.serial : test.skip

let service: Service
let http: Client
let browser: Awaited<ReturnType<typeof openBrowser>>

test.before('start', async () => {
  if (!browserPath) return
  service = await startService({ backend: backends.at(-1) ?? 'postgres' })
  http = createClient(service.url)
  browser = await openBrowser(browserPath)
})

test.after.always('stop', async () => {
  await browser?.close()
  await service?.stop()
})

const visit = (path = '/', size?: { width: number; height: number }) =>
  watch(browser.context, `${service.url}${path}`, size)

/** How many points of a chart are drawn upon, what they add up to, and the colour that most have: the grid's. */
async function ink(page: Page, chart: string): Promise<{ drawn: number; sum: number; colour: string }> {
  return await page
    .locator(`${chart} canvas`)
    .first()
    .evaluate((canvas: { getContext(kind: '2d'): Drawing; width: number; height: number }) => {
      const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height)
      let [drawn, sum] = [0, 0]
      const colours: Record<string, number> = {}
      for (let at = 3; at < data.length; at += 4) {
        if (data[at] === 0) continue
        drawn += 1
        sum = (sum + at * (data[at - 1] ?? 0)) % 1_000_000_007
        if (data[at] !== 255) continue
        const colour = `#${[...data.slice(at - 3, at)].map((part) => part.toString(16).padStart(2, '0')).join('')}`
        colours[colour] = (colours[colour] ?? 0) + 1
      }
      const [colour = ''] = Object.keys(colours).sort((a, b) => (colours[b] ?? 0) - (colours[a] ?? 0))
      return { drawn, sum, colour }
    })
}
type Drawing = { getImageData(x: number, y: number, width: number, height: number): { data: Uint8ClampedArray } }

trial('a newcomer opens two accounts, moves money, and sees each step of it', async (t) => {
  const { page, requests, errors } = await visit()
  t.is(await page.getByRole('heading', { level: 2 }).count(), 4)
  await page.getByRole('button', { name: 'Open two' }).click()
  await page.getByLabel('Accounts opened here').getByRole('link').nth(1).waitFor()
  const source = await page.getByLabel('From').inputValue()
  const destination = await page.getByLabel('To', { exact: true }).inputValue()
  t.not(source, destination)

  await page.getByRole('button', { name: 'Submit' }).click()
  const steps = page.getByLabel('What became of it')
  await steps.getByText('Posted').waitFor()
  const text = String(await steps.textContent())
  t.regex(text, /Accepted[\s\S]*Queued[\s\S]*job [0-9a-f-]{36}[\s\S]*Posted[\s\S]*index 0/)
  t.is((await http.get(`/accounts/${source}/balance`)).body.balance, '70.00')

  // The same key again moves nothing.
  await page.getByRole('button', { name: 'Submit' }).click()
  await steps.getByText('Replayed').waitFor()
  await steps.getByText('index 0').waitFor()
  t.is((await http.get(`/accounts/${source}/balance`)).body.balance, '70.00')

  // A new one does, and more than there is is refused.
  await page.getByRole('button', { name: 'New key' }).click()
  await page.getByLabel('Amount').fill('1000')
  await page.getByRole('button', { name: 'Submit' }).click()
  await steps.getByText('insufficient funds, index 1').waitFor()

  await steps.getByRole('link').click()
  await page.getByRole('heading', { name: 'Transfer', exact: true }).waitFor()
  await page.locator('#result .steps').waitFor()
  const life = String(await page.locator('#result').textContent())
  t.regex(life, /Submitted[\s\S]*Queued[\s\S]*Started[\s\S]*Rejected[\s\S]*index 1/)
  t.regex(life, /in job [0-9a-f-]{36}, with 0 others/)
  t.true(requests.length > 10)
  t.deepEqual(strays(requests, service.url), [])
  t.deepEqual(errors, [])
  await page.close()
})

trial(
  'a request that would leave the host is stopped by the policy; the control: without it, it is seen',
  async (t) => {
    let arrived = 0
    const elsewhere = createServer((_request, response) => {
      arrived += 1
      response.end()
    })
    t.teardown(() => elsewhere.close())
    elsewhere.listen(0, '127.0.0.1')
    await once(elsewhere, 'listening')
    const there = `http://127.0.0.1:${(elsewhere.address() as AddressInfo).port}/pixel`
    const { page, requests, errors, violations } = await visit()
    const leave = () =>
      page.evaluate(
        (url) =>
          fetch(url, { mode: 'no-cors' }).then(
            () => true,
            () => false,
          ),
        there,
      )
    t.false(await leave())
    t.deepEqual(await violations(), [there])
    t.true(errors.length > 0)
    t.deepEqual([strays(requests, service.url), arrived], [[], 0])

    const session = await browser.context.newCDPSession(page)
    await session.send('Page.setBypassCSP', { enabled: true })
    await page.reload()
    t.true(await leave())
    t.deepEqual([strays(requests, service.url), arrived], [[there], 1])
    await page.close()
  },
)

trial('the strictest of policies stops nothing of it', async (t) => {
  const { page, errors } = await visit()
  await page.route(`${service.url}/`, async (route) => {
    const response = await route.fetch()
    const headers = { ...response.headers(), 'content-security-policy': "default-src 'self'; object-src 'none'" }
    await route.fulfill({ response, headers })
  })
  await page.goto(`${service.url}/`)
  await page.locator('#connection', { hasText: 'Live' }).waitFor()
  t.true((await ink(page, '#live-chart')).drawn > 500)
  await page.getByRole('button', { name: 'Open two' }).click()
  await page.getByLabel('Accounts opened here').getByRole('link').first().click()
  await until(async () => (await ink(page, '#result .chart')).drawn > 100)
  t.deepEqual(errors, [])
  // The control: what it forbids is seen here.
  await page.evaluate('document.body.insertAdjacentHTML("beforeend", "<p style=color:red>")')
  await until(() => errors.length === 1)
  await page.close()
})

trial('the chart of what happens now is drawn, and moves', async (t) => {
  const { page, errors } = await visit()
  const [source, destination] = [await http.open('1000'), await http.open()]
  await until(() => page.locator('#connection', { hasText: 'Live' }).count())
  const before = await ink(page, '#live-chart')
  t.true(before.drawn > 500)
  for (let n = 0; n < 20; n++) await http.transfer(source, destination, '1')
  await until(async () => (await ink(page, '#live-chart')).sum !== before.sum)
  await until(async () => Number(await page.locator('#posted').textContent()) > 0)
  t.is(await page.locator('#deadlocks').textContent(), '0')
  await until(async () => (await page.locator('#sum').textContent()) === '0.00')
  // The same in words.
  await page.locator('#live-table summary').click()
  t.true((await page.getByRole('region', { name: 'The last readings' }).getByRole('row').count()) > 1)
  t.deepEqual(errors, [])
  await page.close()
})

trial('an account is shown now and in the past, and leads to the other side of its transfers', async (t) => {
  const [source, destination] = [await http.open('100.00'), await http.open()]
  for (let n = 0; n < 25; n++) await http.transfer(source, destination, '1.00')
  const { page, errors } = await visit(`/#account=${source}`)
  const result = page.locator('#result')
  await result.getByRole('heading', { name: 'Statement' }).waitFor()
  t.is(await result.locator('output').textContent(), '75.00')
  await until(async () => (await ink(page, '#result .chart')).drawn > 500)
  await until(async () => (await result.locator('table').last().locator('tbody tr').count()) >= 20)
  await result.getByRole('button', { name: 'Older' }).click()
  await until(async () => (await result.getByRole('region', { name: 'Statement' }).locator('tbody tr').count()) === 26)

  await result.getByLabel('Opening to now').focus()
  await page.keyboard.press('Home')
  await until(async () => (await result.locator('output').textContent()) === '0.00')
  await page.keyboard.press('End')
  await until(async () => (await result.locator('output').textContent()) === '75.00')

  await result.getByRole('region', { name: 'Statement' }).getByRole('link', { name: destination }).first().click()
  await until(async () => (await result.locator('output').textContent()) === '25.00')
  t.is(new URL(page.url()).hash, `#account=${destination}`)
  t.deepEqual(errors, [])
  await page.close()
})

trial('all of it can be done by keyboard alone', async (t) => {
  const [source, destination] = [await http.open('10'), await http.open()]
  const { page } = await visit()
  const focused = () => page.locator(':focus')
  /** Tabs on until the focus is there. */
  const reach = async (locator: ReturnType<Page['locator']>) => {
    for (let presses = 0; presses < 60; presses++) {
      await page.keyboard.press('Tab')
      if (await locator.evaluate((element) => element.matches(':focus'))) return
    }
    throw new Error('the keyboard does not get there')
  }
  await page.keyboard.press('Tab')
  t.is(await focused().textContent(), 'Skip to the content')
  await page.keyboard.press('Enter')
  t.is(await focused().getAttribute('id'), 'main')

  await reach(page.getByLabel('From'))
  await page.keyboard.type(source)
  await page.keyboard.press('Tab')
  await page.keyboard.type(destination)
  await page.keyboard.press('Tab')
  await page.keyboard.type('2.50')
  await page.keyboard.press('Enter')
  await page.getByLabel('What became of it').getByText('Posted').waitFor()

  const look = page.getByRole('region', { name: 'Look up' })
  await reach(look.getByLabel('Account'))
  await page.keyboard.type(source)
  await page.keyboard.press('Enter')
  await page.locator('#result output').waitFor()
  t.is(await page.locator('#result output').textContent(), '7.50')
  // Whoever listens is told where they are.
  t.is(await focused().textContent(), 'Account')
  await page.close()
})

trial('everything that is operated has a name, and the page has its landmarks', async (t) => {
  const account = await http.open('10')
  const { page } = await visit(`/#account=${account}`)
  await page.locator('#result:not([aria-busy]) output').waitFor()
  for (const role of ['button', 'textbox', 'link', 'slider', 'img'] as const) {
    const all = page.getByRole(role)
    t.true((await all.count()) > 0, role)
    for (const one of await all.all()) {
      t.regex(
        await one.ariaSnapshot(),
        new RegExp(`^- (?:'|")?${role} "[^"]+"`),
        await one.evaluate((e) => e.outerHTML),
      )
    }
  }
  for (const role of ['banner', 'main', 'navigation'] as const) t.is(await page.getByRole(role).count(), 1, role)
  const ids = await page.evaluate('[...document.querySelectorAll("[id]")].map(({ id }) => id)')
  t.deepEqual([...new Set(ids as string[])], ids)
  await page.close()
})

trial('a phone shows all of it without scrolling sideways', async (t) => {
  const [source, destination] = [await http.open('99999999999999999999.12345678'), await http.open()]
  await http.transfer(source, destination, '1.5')
  const transfer = await http.transfer(source, destination, '12345678901234567890')
  for (const path of ['/', `/#account=${source}`, `/#transfer=${transfer.id}`, '/#transfer=nothing']) {
    const { page } = await visit(path, { width: 360, height: 740 })
    if (path !== '/') await page.locator('#result:not([aria-busy])').waitFor()
    await page.getByRole('button', { name: 'Open two' }).click()
    await page.getByLabel('Accounts opened here').getByRole('link').first().waitFor()
    const widths = await page.evaluate('[document.documentElement.scrollWidth, innerWidth]')
    t.deepEqual(widths, [360, 360], path)
    await page.close()
  }
})

trial('light and dark are each readable, in page and chart', async (t) => {
  const { page } = await visit()
  const looks: { contrast: number; grid: string }[] = []
  for (const colorScheme of ['light', 'dark'] as const) {
    await page.emulateMedia({ colorScheme })
    const contrast = await page.evaluate<number>(`(() => {
      const light = (text) => {
        const [r, g, b] = text.match(/\\d+/g).map((n) => (n / 255 <= 0.03928 ? n / 255 / 12.92 : ((n / 255 + 0.055) / 1.055) ** 2.4))
        return 0.2126 * r + 0.7152 * g + 0.0722 * b
      }
      const back = light(getComputedStyle(document.querySelector('.tile')).backgroundColor)
      const texts = [...document.querySelectorAll('.tile dt, .tile dd b, .tile dd span, main button.plain, main a')]
      return Math.min(...texts.map((text) => light(getComputedStyle(text).color)).map((ink) =>
        (Math.max(ink, back) + 0.05) / (Math.min(ink, back) + 0.05)))
    })()`)
    const grid = await page.evaluate<string>(
      `getComputedStyle(document.documentElement).getPropertyValue('--grid').trim()`,
    )
    await until(async () => (await ink(page, '#live-chart')).colour === grid)
    looks.push({ contrast, grid })
  }
  t.true(
    looks.every(({ contrast }) => contrast >= 4.5),
    JSON.stringify(looks),
  )
  t.not(looks[0]?.grid, looks[1]?.grid)
  await page.close()
})

trial('an API that is gone is said, and found again', async (t) => {
  const second = await startService({ backend: 'postgres' })
  const { page } = await visit()
  await page.goto(second.url)
  await page.locator('#connection', { hasText: 'Live' }).waitFor()
  await second.stop()
  await page.locator('#connection', { hasText: 'Reconnecting' }).waitFor()
  const again = await startService({ backend: 'postgres', settings: { PORT: Number(new URL(second.url).port) } })
  await page.locator('#connection', { hasText: 'Live' }).waitFor()
  await page.close()
  await again.stop()
  t.pass()
})

trial('where the API wants a token, the page asks for it and keeps it for the tab', async (t) => {
  const { page } = await visit()
  const account = await http.open('5')
  // What an API with tokens answers, whatever this one is set up to do.
  await page.route('**/*', async (route) => {
    const given = route.request().headers().authorization
    if (/\/(console\/.*)?$/.test(new URL(route.request().url()).pathname) || given === 'Bearer right') {
      return await route.continue()
    }
    await route.fulfill({ status: 401, contentType: 'application/problem+json', body: '{"detail":"send a token"}' })
  })
  await page.goto(`${service.url}/?again#account=${account}`)
  await page.getByRole('textbox', { name: 'Token' }).waitFor()
  await page.getByRole('textbox', { name: 'Token' }).fill('right')
  await page.getByRole('button', { name: 'Use it' }).click()
  await page.locator('#result output').waitFor()
  await page.locator('#connection', { hasText: 'Live' }).waitFor()
  t.true(await page.getByRole('textbox', { name: 'Token' }).isHidden())
  await page.reload()
  await page.locator('#connection', { hasText: 'Live' }).waitFor()
  t.true(await page.getByRole('textbox', { name: 'Token' }).isHidden())
  await page.evaluate('sessionStorage.clear()')
  await page.close()
})

if (SCREENSHOTS) {
  trial('pictures for the README', async (t) => {
    const accounts = await Promise.all(Array.from({ length: 12 }, () => http.open('250.00')))
    const { page } = await visit()
    let busy = true
    const pick = () => accounts[Math.floor(Math.random() * accounts.length)] as string
    const clients = Array.from({ length: 6 }, async () => {
      while (busy) {
        const [source, destination] = [pick(), pick()]
        if (source === destination) continue
        await http.transfer(source, destination, (Math.random() * 60 + 1).toFixed(2))
      }
    })
    await page.getByRole('button', { name: 'Open two' }).click()
    await page.getByLabel('Accounts opened here').getByRole('link').nth(1).waitFor()
    await page.getByRole('button', { name: 'Submit' }).click()
    await page.getByLabel('What became of it').getByText('Posted').waitFor()
    await until(async () => (await page.locator('#live-table tbody tr').count()) >= 10)
    const began = Date.now()
    await until(() => Date.now() - began > 35_000)
    const shoot = (name: string, fullPage = true) => page.screenshot({ path: join(SCREENSHOTS, name), fullPage })
    await page.emulateMedia({ colorScheme: 'light' })
    await shoot('console-light.png')
    await page.evaluate(`location.hash = 'account=${accounts[0]}'`)
    await page.locator('#result:not([aria-busy]) .chart canvas').waitFor()
    await page.emulateMedia({ colorScheme: 'dark' })
    await page.evaluate('scrollTo(0, 0)')
    await shoot('console-dark.png', false)
    await page.setViewportSize({ width: 390, height: 844 })
    await page.evaluate('location.hash = ""')
    await page.locator('#result').waitFor({ state: 'hidden' })
    await page.emulateMedia({ colorScheme: 'light' })
    await page.evaluate('scrollTo(0, 0)')
    await shoot('console-phone.png', false)
    busy = false
    await Promise.all(clients)
    await page.close()
    t.pass()
  })
}
