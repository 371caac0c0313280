/*
 * npm run token -- NAME SCOPE...
 *
 * Draws a token. Its holder keeps it; the file that AUTH_TOKENS_FILE names gets the line, which only knows its digest.
 */
import { hash, randomBytes } from 'node:crypto'
import { SCOPES, tokenRecord } from './api/token.ts'

const [name, ...scopes] = process.argv.slice(2)
const token = randomBytes(32).toString('base64url')
const record = tokenRecord.safeParse({ name, scopes, sha256: hash('sha256', token) })
if (record.success) {
  console.log(`token: ${token}`)
  console.log(JSON.stringify(record.data))
} else {
  console.error(`npm run token -- NAME SCOPE...   with scopes out of: ${SCOPES.join(', ')}`)
  process.exitCode = 1
}
