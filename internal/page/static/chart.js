// Charts over time, drawn by uPlot.

import { h, own } from './dom.js'
import uPlot from './uplot/uPlot.esm.js'

// colours are those of Okabe and Ito, which people with any colour vision can tell apart; further lines are dashed.
const colours = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#8c6bb1', '#666666']
const dashes = [undefined, [8, 4], [2, 3], [10, 3, 2, 3]]
const kept = new Map()

// chart draws lines, each with a name and as many x (seconds) as y. It keeps the chart of the last time with the same
// key.
export function chart({ key, label, lines, format }) {
  let c = kept.get(key)
  const names = lines.map((l) => l.name).join('\n') + label
  if (!c || c.names !== names) {
    c?.plot?.destroy()
    c?.watch?.disconnect()
    c = { names, box: h('div', { class: 'chart', 'data-own': true, 'data-key': `${key}:${names}`, role: 'img', 'aria-label': label }) }
    kept.set(key, c)
  }
  c.args = { lines, format }
  requestAnimationFrame(() => paint(c))
  return own(c.box)
}

const day = new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'short' })
const minute = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' })
const second = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' })

// clock names a time on an axis as exactly as the axis needs it.
function clock(t, times) {
  const step = times.length > 1 ? times[1] - times[0] : 3600
  return (step >= 86400 ? day : step >= 60 ? minute : second).format(new Date(t * 1000))
}

// paint draws a chart that is on the page.
function paint(c) {
  if (!c.box.isConnected) return
  const { lines, format } = c.args
  const data = uPlot.join(lines.map((l) => [l.x, l.y]))
  if (c.plot) {
    c.plot.setData(data)
    return
  }
  const style = getComputedStyle(document.documentElement)
  const axis = { stroke: style.getPropertyValue('--muted'), grid: { stroke: style.getPropertyValue('--line'), width: 1 }, ticks: { show: false } }
  const size = () => ({ width: c.box.clientWidth, height: 240 })
  c.plot = new uPlot({
    ...size(),
    legend: { show: lines.length <= 12 },
    series: [{ value: (u, t) => t == null ? '–' : new Date(t * 1000).toLocaleString() },
      ...lines.map((l, i) => ({ label: l.name, stroke: colours[i % colours.length], width: 1.75, dash: dashes[Math.floor(i / colours.length) % dashes.length], spanGaps: false, value: (u, v) => v == null ? '–' : format(v) }))],
    axes: [{ ...axis, values: (u, times) => times.map((t) => clock(t, times)) }, { ...axis, size: 72, values: (u, vs) => vs.map(format) }],
    scales: { y: { range: (u, min, max) => [Math.min(0, min ?? 0), (max ?? 0) > 0 ? max * 1.1 : 1] } },
  }, data, c.box)
  c.watch = new ResizeObserver(() => c.plot?.setSize(size()))
  c.watch.observe(c.box)
}

// The colours of the axes change with the theme.
function repaint() {
  for (const c of kept.values()) {
    c.plot?.destroy()
    c.watch?.disconnect()
    c.plot = null
    requestAnimationFrame(() => paint(c))
  }
}
window.addEventListener('theme', repaint)
window.matchMedia('(prefers-color-scheme: dark)').addEventListener('change', repaint)
