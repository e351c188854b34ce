// One shard: its owners, what a repair would do, and what was done.

import { h, on, toast } from '../dom.js'
import { ago, at, bytes, count, range, seconds, sorted } from '../format.js'
import { get, store } from '../store.js'
import { bar, empty, field, shardButtons, statuses, statusText, table } from './parts.js'
import { progress } from './repairs.js'

let id = ''
let detail = null // what the owners say
let dry = null // the dry run: null, 'running', or the answer
let asked = 0
let aborted = null
let redraw = () => {}
let last = null

export const shard = {
  enter(draw, shardID) {
    redraw = draw
    id = shardID
    detail = null
    dry = null
    asked = 0
    last = null
    aborted = new AbortController()
  },
  leave() {
    aborted?.abort()
  },
  render(draw, shardID) {
    const s = store.state.shards[shardID]
    if (!s) {
      return [h('h1', {}, `Shard ${shardID}`), empty('There is no such shard, or you may not see it: it may have expired, or been dropped.'),
        h('a', { href: '#/shards' }, 'All shards')]
    }
    if (s !== last || Date.now() - asked > 10000) ask(s)
    return [
      h('p', {}, h('a', { href: '#/shards' }, '← All shards')),
      h('div', { class: 'row between' },
        h('h1', {}, `Shard ${id} `, h('span', { class: 'muted' }, `${s.database}.${s.policy}`)),
        shardButtons(id, s)),
      h('dl', { class: 'fields card' },
        field('Status', h('span', { id: 'shard-status' }, statusText(s.status))),
        field('Time', range(s.start, s.end)),
        field('Compared', detail ? ago(detail.compared) : '…'),
        field('Expires', s.expires ? at(s.expires) : 'never'),
        s.writing ? field('Writes', 'it is being written') : null,
        s.repair ? field('Repair', s.repair === 'running' ? 'runs' : 'waits') : null),
      h('p', { class: 'muted' }, statuses[s.status]?.means ? `${cap(statuses[s.status].means)}.` : null, s.message ? ` ${s.message}` : null),
      running(),
      owners(s),
      store.session.admin ? dryRun(s) : null,
      store.session.admin ? history() : null,
    ]
  },
}

const cap = (t) => t[0].toUpperCase() + t.slice(1)

async function ask(s) {
  last = s
  asked = Date.now()
  const of = id
  try {
    const d = await get(`/shard?id=${encodeURIComponent(of)}`, aborted.signal)
    if (of === id) detail = d
  } catch (e) {
    if (of === id && e.status) toast(e.message, 'bad')
  }
  redraw()
}

const running = () => sorted(store.state.repairs).filter(([, r]) => r.shard === id && r.state === 'running').map(([k, r]) => progress(k, r))

function owners(s) {
  const by = Object.fromEntries((detail?.owners ?? []).map((o) => [o.node, o]))
  const most = Math.max(1, ...Object.values(by).map((o) => o.size))
  return h('section', {}, h('h2', {}, 'Owners'),
    table(['Node', 'Copy', { num: 'Size' }, h('span', { class: 'hidden' }, 'Size as a bar'), 'Last write', 'Digest'], s.owners.map((n, i) => {
      const o = by[n]
      const node = store.state.nodes[n]
      return [
        [node?.address ?? `node ${n}`, i === 0 ? h('small', { class: 'muted', title: 'The first owner drives the repairs of the shard' }, ' first owner') : null],
        !o ? '…' : !o.up ? h('span', { class: 'bad' }, 'does not answer') : !o.exists ? h('span', { class: 'bad' }, 'missing')
          : o.corrupt ? h('span', { class: 'bad' }, `damaged: ${o.corrupt}`) : o.lacks ? h('span', { class: 'warn' }, `not whole: ${o.lacks}`)
            : o.hints_for ? `whole; keeps writes for ${o.hints_for.map((x) => store.state.nodes[x]?.address ?? x).join(', ')}` : 'whole',
        { num: o?.up ? bytes(o.size) : '–' }, o?.up ? h('div', { class: 'mini' }, bar(o.size / most, `Size ${bytes(o.size)}`)) : '',
        o?.up && o.written ? ago(o.written) : '–', o?.up && o.digested ? ago(o.digested) : '–',
      ]
    }), { label: `Owners of shard ${id}` }),
    h('p', { class: 'muted small' }, 'Digest: when the sums that the comparison uses were up to date last.'))
}

on('dry-run', async (b) => {
  dry = 'running'
  redraw()
  const of = id
  try {
    const d = await get(`/shard-repair/diff?id=${encodeURIComponent(of)}`, aborted.signal)
    if (of === id) dry = d
  } catch (e) {
    if (of !== id || !e.status) return
    dry = null
    toast(e.message, 'bad')
  }
  redraw()
})

function dryRun(s) {
  return h('section', {},
    h('div', { class: 'row between' }, h('h2', {}, 'Dry run'),
      h('button', { class: 'button', 'data-act': 'dry-run', id: 'dry-run', disabled: dry === 'running' || s.owners.length < 2 },
        dry === 'running' ? 'Comparing…' : dry ? 'Compare again' : 'Compare the owners')),
    !dry ? h('p', { class: 'muted' }, 'Compares the owners, and shows what a repair would do. It changes nothing.')
      : dry === 'running' ? h('p', { class: 'muted', role: 'status' }, 'The owners are being compared. A large shard takes a while.')
        : result(s, dry))
}

function result(s, d) {
  const start = Date.parse(s.start) * 1e6
  const length = (Date.parse(s.end) - Date.parse(s.start)) * 1e6
  const place = (f) => ({
    left: `${100 * Math.max(0, (Number(f.start_time) - start) / length)}%`,
    width: `${Math.max(0.4, 100 * (Number(f.end_time) - Number(f.start_time)) / length)}%`,
  })
  const shown = d.series.slice(0, 100)
  return h('div', { id: 'dry-result' },
    d.differing_fields === 0 && !d.conflict ? h('p', { class: 'good-text' }, '✓ The owners are equal: a repair would send nothing.') : h('p', {},
      h('strong', {}, `A repair would send ${bytes(d.bytes)}.`), ` ${count(d.differing_fields)} field${d.differing_fields === 1 ? '' : 's'} of series differ${d.differing_fields === 1 ? 's' : ''}.`,
      d.truncated ? ' There are more differences than fit into one comparison: the numbers are of a part.' : null),
    d.unreachable ? h('p', { class: 'warn' }, `Not compared: ${d.unreachable}`) : null,
    d.conflict ? h('p', { class: 'bad' }, `No repair brings this: ${d.conflict}. Choose the type with influxd-ctl entropy resolve.`) : null,
    table(['Owner', { num: 'Lacks points' }, 'Owner', { num: 'Lacks points' }, { num: 'Different values' }],
      d.pairs.map((p) => [p.a, { num: count(p.missing_on_a) }, p.b, { num: count(p.missing_on_b) }, { num: count(p.conflicts) }]),
      { label: 'Points that each owner lacks' }),
    shown.length ? [h('h3', {}, `Where they differ${d.differing_fields > shown.length ? `, the first ${shown.length}` : ''}`),
      h('div', { class: 'axis' }, h('span', {}, at(s.start)), h('span', {}, at(s.end))),
      h('ul', { class: 'spans' }, shown.map((f) => h('li', {},
        h('span', { class: 'series', title: `${f.series} ${f.field}` }, f.series, h('b', {}, ` ${f.field}`)),
        h('span', { class: 'track', role: 'img', 'aria-label': `from ${iso(f.start_time)} to ${iso(f.end_time)}`, title: `${iso(f.start_time)} – ${iso(f.end_time)}` }, h('span', { style: place(f) })))))] : null,
    d.decided.length ? [h('h3', {}, 'Points with different values'),
      table(['Series', 'Time', 'Values', 'A repair chooses', 'Why'], d.decided.map((c) => [
        { wide: [c.series, h('b', {}, ` ${c.field}`)] }, iso(c.time), c.held.map((x) => h('div', {}, `${x.value} `, h('small', { class: 'muted' }, x.node))),
        c.undecided ? 'nothing' : h('b', {}, c.value), { wide: c.reason ?? '' },
      ]), { label: 'Points with different values' })] : null)
}

const iso = (ns) => new Date(Number(BigInt(ns) / 1000000n)).toISOString()

function history() {
  const list = sorted(store.state.repairs, ([, a], [, b]) => Date.parse(b.ended ?? 0) - Date.parse(a.ended ?? 0)).filter(([, r]) => r.shard === id && r.ended)
  return h('section', {}, h('h2', {}, 'History'),
    list.length ? table(['Ended', 'Outcome', { num: 'Took' }, { num: 'Points' }, { num: 'Sent' }, { num: 'Received' }, { num: 'Decided' }],
      list.map(([, r]) => [ago(r.ended), [h('span', { class: `state ${r.state}` }, r.state), r.error ? h('div', { class: 'muted wide' }, r.error) : null],
        { num: r.started ? seconds((Date.parse(r.ended) - Date.parse(r.started)) / 1000) : '–' }, { num: count(r.points) },
        { num: bytes(r.sent) }, { num: bytes(r.received) }, { num: count(r.conflicts) }]), { label: `Repairs of shard ${id}` })
      : empty('It was not repaired since the nodes started.'))
}
