/*
 * What a worker tells over HTTP: GET /metrics, as text for Prometheus or as JSON for the API that shows them with its own,
 * and GET /health. For operators, without access control: it listens on loopback unless told otherwise.
 */
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import type { Logger } from 'pino'
import { http } from '../lean.ts'
import { METRICS_TYPE, type WorkerMetrics } from '../metrics.ts'

export type Listener = { url: string; stop: () => void }

/** @returns undefined if the port cannot be had: transfers matter more than their numbers. */
export async function listen(
  { register }: WorkerMetrics,
  { host, port, log }: { host: string; port: number; log: Logger },
): Promise<Listener | undefined> {
  const server = http.createServer(async (request, response) => {
    if (request.url === '/health') return response.writeHead(204).end()
    if (request.url !== '/metrics') return response.writeHead(404).end()
    const json = request.headers.accept === 'application/json'
    const body = json ? JSON.stringify(await register.getMetricsAsJSON()) : await register.metrics()
    response.writeHead(200, { 'Content-Type': json ? 'application/json' : METRICS_TYPE }).end(body)
  })
  try {
    server.listen(port, host)
    await once(server, 'listening')
  } catch (error) {
    log.error({ error: String(error) }, 'no metrics of this worker: its port cannot be had')
    return undefined
  }
  const { address, family, port: taken } = server.address() as AddressInfo
  return {
    url: `http://${family === 'IPv6' ? `[${address}]` : address}:${taken}`,
    stop: () => {
      server.close()
      server.closeAllConnections()
    },
  }
}
