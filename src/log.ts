/*
 * Logging: one JSON line per event, pretty on a terminal. Quiet by default: an event is something an operator may have
 * to know, never a request that went as it should (LOG_LEVEL=debug shows those).
 */
import { type Logger, pino } from 'pino'

export function createLog(level: string, part: string): Logger {
  const transport = process.stdout.isTTY
    ? {
        target: 'pino-pretty',
        options: { translateTime: 'HH:MM:ss', ignore: 'pid,hostname,part', messageFormat: '{part}: {msg}' },
      }
    : undefined
  return pino({ level, base: { part }, ...(transport ? { transport } : {}) })
}
