export interface ServerEvent {
  type: string
  data: string
}

/** Feeds text of an event stream (the HTML standard's "server-sent events") in any portions; calls back for each event. */
export function createEventParser(onEvent: (event: ServerEvent) => void): (text: string) => void {
  let rest = ''
  let type = 'message'
  let data: string[] = []
  return (text) => {
    const lines = (rest + text).split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines) {
      const [, field, value = ''] = /^([^:]*)(?:: ?(.*))?$/s.exec(line.replace(/\r$/, '')) ?? []
      if (line === '' || line === '\r') {
        if (data.length > 0) onEvent({ type, data: data.join('\n') })
        type = 'message'
        data = []
      } else if (field === 'event') type = value
      else if (field === 'data') data.push(value)
    }
  }
}
