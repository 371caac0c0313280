/*
 * Traces
 *
 * OpenTelemetry from the request through the job to the SQL, by hand and only where a transfer goes; off, and not even
 * loaded, unless OTEL_EXPORTER_OTLP_ENDPOINT is set. What several requests share (a job, a call of the database) is a span
 * in the trace of the first of them, with links to all the others.
 */
import { AsyncLocalStorage } from 'node:async_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Context, ContextManager, Link } from '@opentelemetry/api'
import type { Sampler } from '@opentelemetry/sdk-trace'
import type { Telemetry } from 'bullmq'
import type { Context as Exchange, Middleware } from 'koa'
import type { Settings } from './settings.ts'

/** A span that something later may go back to. */
export type Origin = Context

export type Tracing = {
  /** For BullMQ's queues and workers. */
  telemetry: Telemetry
  /** A span per request, in the trace that the client began, if it did (W3C traceparent). */
  serve: Middleware
  /** The span under way. */
  here(): Origin
  /** Does the work within a span of its own, in the trace of the first origin and linked to all. */
  run<Result>(name: string, origins: readonly Origin[], work: () => Promise<Result>): Promise<Result>
  /** Sends what is still here, if somebody takes it in time. */
  stop(): Promise<void>
}

/** A collector that is away keeps no process from stopping. */
const STOP_LIMIT_MS = 2000

/** @returns undefined where nobody collects traces. */
export async function startTracing(settings: Settings, part: 'api' | 'worker'): Promise<Tracing | undefined> {
  const endpoint = settings.OTEL_EXPORTER_OTLP_ENDPOINT
  if (!endpoint) return undefined
  const [api, core, resources, sdk, { OTLPTraceExporter }, { BullMQOtel }] = await Promise.all([
    import('@opentelemetry/api'),
    import('@opentelemetry/core'),
    import('@opentelemetry/resources'),
    import('@opentelemetry/sdk-trace'),
    import('@opentelemetry/exporter-trace-otlp-http'),
    import('bullmq-otel'),
  ])
  const { context, propagation, SpanKind, SpanStatusCode, trace } = api

  const provider = new sdk.TracerProvider({
    sampler: atTheEdge(createSampler(settings, sdk), api, sdk),
    resource: resources
      .defaultResource()
      .merge(resources.detectResources({ detectors: [resources.envDetector] }))
      .merge(resources.resourceFromAttributes({ 'service.name': settings.OTEL_SERVICE_NAME, 'transfer.part': part })),
    spanProcessors: [
      new sdk.BatchSpanProcessor({
        exporter: new OTLPTraceExporter({ url: `${endpoint.replace(/\/$/, '')}/v1/traces` }),
      }),
    ],
  })
  // For BullMQ and slonik, which find them here.
  context.setGlobalContextManager(createContextManager(api.ROOT_CONTEXT))
  propagation.setGlobalPropagator(new core.W3CTraceContextPropagator())
  trace.setGlobalTracerProvider(provider)
  const tracer = provider.getTracer('transfer')

  const serve: Middleware = async (ctx: Exchange, next) => {
    const parent = propagation.extract(api.ROOT_CONTEXT, ctx.req.headers)
    const span = tracer.startSpan(ctx.method, { kind: SpanKind.SERVER }, parent)
    try {
      await context.with(trace.setSpan(parent, span), next)
    } finally {
      if (span.isRecording()) {
        const route = ctx._matchedRoute === undefined ? undefined : String(ctx._matchedRoute)
        if (route) span.updateName(`${ctx.method} ${route}`).setAttribute('http.route', route)
        span.setAttribute('http.request.method', ctx.method)
        span.setAttribute('http.response.status_code', ctx.status)
        span.setAttribute('transfer.request_id', String(ctx.state.request_id))
        if (ctx.status >= 500) span.setStatus({ code: SpanStatusCode.ERROR })
      }
      span.end()
    }
  }

  const run: Tracing['run'] = async (name, origins, work) => {
    const sampled = origins.filter((origin) => trace.getSpan(origin)?.isRecording())
    const parent = sampled[0] ?? origins[0] ?? api.ROOT_CONTEXT
    const links = [...new Set(sampled)].flatMap((origin): Link[] => {
      const spanContext = trace.getSpanContext(origin)
      return spanContext ? [{ context: spanContext }] : []
    })
    const span = tracer.startSpan(name, { kind: SpanKind.INTERNAL, links }, parent)
    try {
      return await context.with(trace.setSpan(parent, span), work)
    } catch (error) {
      span.setStatus({ code: SpanStatusCode.ERROR, message: String(error) })
      throw error
    } finally {
      span.end()
    }
  }

  return {
    telemetry: new BullMQOtel({ tracerName: 'bullmq' }) as Telemetry,
    serve,
    here: () => context.active(),
    run,
    stop: () => Promise.race([provider.shutdown().catch(() => {}), sleep(STOP_LIMIT_MS, undefined, { ref: false })]),
  }
}

type Sdk = typeof import('@opentelemetry/sdk-trace')

/** The samplers of the specification, by their names there. */
function createSampler({ OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG }: Settings, sdk: Sdk): Sampler {
  const roots: Record<string, () => Sampler> = {
    always_on: () => new sdk.AlwaysOnSampler(),
    always_off: () => new sdk.AlwaysOffSampler(),
    traceidratio: () => new sdk.TraceIdRatioBasedSampler(OTEL_TRACES_SAMPLER_ARG),
  }
  const root = roots[OTEL_TRACES_SAMPLER.replace('parentbased_', '')]?.() ?? new sdk.AlwaysOnSampler()
  return OTEL_TRACES_SAMPLER.startsWith('parentbased_') ? new sdk.ParentBasedSampler({ root }) : root
}

/**
 * A trace begins with a request: BullMQ would begin one each time a worker looks for a job, renews a lock or idles. And
 * nothing is added to a span that is over: a loop that was started under it may go on for as long as there is load.
 */
function atTheEdge(inner: Sampler, { SpanKind, trace }: typeof import('@opentelemetry/api'), sdk: Sdk): Sampler {
  return {
    shouldSample: (parent, traceId, name, kind, attributes, links) => {
      const span = trace.getSpan(parent)
      const belongs = kind === SpanKind.SERVER || span?.spanContext().isRemote || span?.isRecording()
      if (!belongs) return { decision: sdk.SamplingDecision.NOT_RECORD }
      return inner.shouldSample(parent, traceId, name, kind, attributes, links)
    },
    toString: () => inner.toString(),
  }
}

/** The span under way follows the calls, over every await. The SDK's own manager follows the stack only. */
function createContextManager(root: Context): ContextManager {
  const storage = new AsyncLocalStorage<Context>()
  const manager: ContextManager = {
    active: () => storage.getStore() ?? root,
    with: (context, work, self, ...given) => storage.run(context, () => work.apply(self as never, given)),
    bind: (context, target) =>
      typeof target === 'function'
        ? (((...given: unknown[]) => storage.run(context, () => target(...given))) as typeof target)
        : target,
    enable: () => manager,
    disable: () => {
      storage.disable()
      return manager
    },
  }
  return manager
}
