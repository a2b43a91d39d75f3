// Search in pages that are opened from the disk: browsers start no Worker for file:, so its script runs in a hidden frame.
// docs/pages.py puts this file in the place of the script that the theme would load from the network.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.waiting = []
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      this.frame.srcdoc = `<script src="${url}"></script>`
      this.frame.addEventListener("load", () => this.start())
      document.body.append(this.frame)
    }

    start() {
      const answer = data => this.dispatchEvent(new MessageEvent("message", { data }))
      this.frame.contentWindow.postMessage = answer
      for (const data of this.waiting.splice(0)) this.deliver(data)
      this.started = true
    }

    deliver(data) {
      this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }))
    }

    postMessage(data) {
      if (this.started) this.deliver(data)
      else this.waiting.push(data)
    }

    terminate() {
      this.frame.remove()
    }
  }
}
