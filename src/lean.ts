/*
 * Modules that are smaller when required
 *
 * Importing node:http reads all that it exports, and one of that, WebSocket, brings a whole HTTP client (undici, and HTTP/2
 * with it): 5 MB in every process, for what hardly any of them ever uses. Required, it stays unread. What imports node:http
 * itself is required, too.
 */
import { createRequire } from 'node:module'

const require = createRequire(import.meta.url)

export const http = require('node:http') as typeof import('node:http')
export const { Router } = require('@koa/router') as typeof import('@koa/router')
