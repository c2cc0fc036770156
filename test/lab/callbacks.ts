import { createServer } from 'node:http'

/** A device's end of callbacks: prints each notification as a line of JSON, `{at, path, body}`. */
if (import.meta.main) {
  const [host, port] = process.argv.slice(2)
  createServer(async (req, res) => {
    const chunks: Buffer[] = []
    for await (const chunk of req as AsyncIterable<Buffer>) chunks.push(chunk)
    const line = { at: Date.now(), path: req.url, body: JSON.parse(Buffer.concat(chunks).toString()) }
    process.stdout.write(`${JSON.stringify(line)}\n`)
    res.writeHead(204).end()
  }).listen(Number(port), host)
}
