/*
 * A real browser: Debian's chromium or whatever is like it on this machine, with an empty profile of its own; and pages
 * in it, with everything they ask for and complain of.
 */
import { execFileSync } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type BrowserContext, chromium, type Page } from 'playwright-core'

/** Undefined if there is none. CHROMIUM_PATH goes first. */
export const browserPath: string | undefined = [
  process.env.CHROMIUM_PATH,
  'chromium',
  'chromium-browser',
  'google-chrome',
].flatMap((name) => (name ? findExecutable(name) : []))[0]

function findExecutable(name: string): string[] {
  try {
    return [execFileSync('/bin/sh', ['-c', 'command -v "$1"', 'sh', name], { encoding: 'utf8' }).trim()]
  } catch {
    return []
  }
}

const ARGUMENTS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
]

export async function openBrowser(
  executablePath: string,
): Promise<{ context: BrowserContext; close(): Promise<void> }> {
  const profile = await mkdtemp(join(tmpdir(), 'transfer-browser-'))
  const context = await chromium.launchPersistentContext(profile, { executablePath, headless: true, args: ARGUMENTS })
  const close = async () => {
    await context.close()
    await rm(profile, { recursive: true, force: true, maxRetries: 5 })
  }
  return { context, close }
}

export type Watched = {
  page: Page
  requests: string[]
  errors: string[]
  /** What a Content-Security-Policy has stopped on the page shown last: the address, or `inline`, or `eval`. */
  violations(): Promise<string[]>
}

const DESK = { width: 1280, height: 900 }

export async function watch(context: BrowserContext, url: string, size = DESK): Promise<Watched> {
  const page = await context.newPage()
  page.setDefaultTimeout(60_000)
  await page.setViewportSize(size)
  const [requests, errors]: [string[], string[]] = [[], []]
  page.on('request', (request) => requests.push(request.url()))
  // Announced, and stopped before it left.
  page.on('requestfailed', (request) => {
    if (/csp/i.test(request.failure()?.errorText ?? '')) requests.splice(requests.indexOf(request.url()), 1)
  })
  page.on('console', (message) => message.type() === 'error' && errors.push(message.text()))
  page.on('pageerror', (error) => errors.push(String(error)))
  await page.addInitScript(
    `const violations = (window.violations = [])
    document.addEventListener('securitypolicyviolation', ({ blockedURI }) => violations.push(blockedURI))`,
  )
  await page.goto(url)
  return { page, requests, errors, violations: () => page.evaluate<string[]>('window.violations') }
}

/** Those that left for another host. What a page holds itself (data:, blob:) leaves for nowhere. */
export function strays(requests: string[], home: string): string[] {
  return requests.filter((url) => /^(?:https?|wss?):/.test(url) && new URL(url).origin !== home)
}
