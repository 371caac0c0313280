/*
 * A real browser: Debian's chromium or whatever is like it on this machine, with an empty profile of its own.
 */
import { execFileSync } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type BrowserContext, chromium } from 'playwright-core'

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
