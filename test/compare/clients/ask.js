// Asks statements through npm's influx.
//
// Standard input is JSON: {"addrs": [host:port], "db": name, "statements": [text]}.
// Each statement goes to the next address in turn; each answer is one line of JSON.
const { InfluxDB } = require('influx');

async function main() {
  const task = JSON.parse(require('fs').readFileSync(0, 'utf8'));
  const clients = task.addrs.map((addr) => {
    const [host, port] = addr.split(':');
    return () => new InfluxDB({ host, port: Number(port), database: task.db });
  });
  for (const [i, statement] of task.statements.entries()) {
    const client = clients[i % clients.length]();
    let answer;
    try {
      const rows = await client.query(statement, i % 2 ? { precision: 'ms' } : {});
      const groups = (Array.isArray(rows) && rows.groups ? rows.groups() : []).map((g) => ({ name: g.name, tags: g.tags, rows: g.rows }));
      answer = { rows, groups, raw: await client.queryRaw(statement) };
    } catch (e) {
      answer = { error: e.message };
    }
    console.log(JSON.stringify(answer, (_, v) => (typeof v === 'bigint' ? v.toString() : v)));
  }
}

main();
