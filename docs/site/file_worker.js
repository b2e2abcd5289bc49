/* Search in pages that were opened as files: browsers start no worker there, so a frame is one. */
class FrameWorker extends EventTarget {
  constructor(url) {
    super()
    const frame = document.createElement("iframe")
    frame.hidden = true
    document.body.appendChild(frame)
    this.inside = frame.contentWindow
    this.loaded = new Promise(resolve => (frame.onload = resolve))
    window.addEventListener("message", event => {
      if (event.source !== this.inside) return
      const message = new MessageEvent("message", { data: event.data })
      this.dispatchEvent(message)
      if (this.onmessage) this.onmessage(message)
    })
    this.inside.document.open()
    this.inside.document.write(`<body><script>
      function postMessage(data) { parent.postMessage(data, "*") }
      function importScripts(...urls) {
        return urls.reduce((before, url) => before.then(() => new Promise((done, failed) => {
          const script = document.createElement("script")
          Object.assign(script, { src: url, onload: done, onerror: failed })
          document.body.appendChild(script)
        })), Promise.resolve())
      }
    </script><script src="${url}"></script></body>`)
    this.inside.document.close()
  }
  postMessage(data) {
    this.loaded.then(() => this.inside.dispatchEvent(new MessageEvent("message", { data })))
  }
  terminate() {}
}
if (location.protocol === "file:") window.Worker = FrameWorker
