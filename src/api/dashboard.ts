/*
 * The dashboard of the queue, at /dashboard
 *
 * bull-board, for those who may `operate`: jobs hold everybody's transfers. They may retry, promote, pause and resume;
 * what would lose an accepted transfer or make up one (removing, emptying, changing and adding jobs) is refused to everyone:
 * nothing in the queue is the queue's own to lose.
 */
import type { Queue } from 'bullmq'
import type { Context, Middleware, Next } from 'koa'
import type { TransferQueue } from '../queue.ts'
import { demand } from './access.ts'
import { Problem } from './problem.ts'
import { asPage, contentSecurityPolicy } from './security.ts'

const PATH = '/dashboard'

/** Of all queues, of one, of a job. */
const HARMLESS =
  /^\/dashboard\/api\/queues\/(?:(?:pause|resume)|[^/]+\/(?:pause|resume|promote|retry\/failed)|[^/]+\/(?!clean\/)[^/]+\/(?:promote|retry))$/

/**
 * Everything it needs is local, and named from a <base>. The page names a font elsewhere, which is not fetched, and styles
 * its own placeholder.
 */
const POLICY = contentSecurityPolicy({
  baseUri: ["'self'"],
  styleSrc: ["'self'", "'unsafe-inline'"],
  imgSrc: ["'self'", 'data:'],
})

/**
 * Goes before the body is read: bull-board brings a parser of its own. It is loaded when somebody looks for the first time:
 * an API that nobody looks at starts faster, and 12 MB smaller.
 */
export function dashboard(queue: TransferQueue): Middleware {
  let board: Promise<Middleware> | undefined
  const show: Middleware = async (ctx, next) => {
    ctx.state.route = PATH
    admit(ctx)
    asPage(ctx, POLICY)
    board ??= createBoard(queue)
    await (await board)(ctx, next)
  }
  return (ctx: Context, next: Next) => (ctx.path === PATH || ctx.path.startsWith(`${PATH}/`) ? show(ctx, next) : next())
}

async function createBoard(queue: TransferQueue): Promise<Middleware> {
  const [{ createBullBoard }, { BullMQAdapter }, { KoaAdapter }] = await Promise.all([
    import('@bull-board/api'),
    import('@bull-board/api/bullMQAdapter'),
    import('@bull-board/koa'),
  ])
  const serverAdapter = new KoaAdapter().setBasePath(PATH)
  const adapter = new BullMQAdapter(queue as unknown as Queue)
  createBullBoard({ queues: [adapter], serverAdapter, options: { uiConfig: { boardTitle: 'Transfer' } } })
  return serverAdapter.registerPlugin()
}

/** @throws Problem unauthenticated or forbidden. */
function admit(ctx: Context): void {
  demand(ctx, 'operate')
  if (ctx.method !== 'GET' && ctx.method !== 'HEAD' && !HARMLESS.test(ctx.path)) {
    throw new Problem('forbidden', 'the dashboard retries, promotes, pauses and resumes; it loses no accepted transfer')
  }
}
