package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"innertun/cmd/internal/capture"
)

// captureEndTime is how long the daemon has to end a capture that is to end.
const captureEndTime = 10 * time.Second

// captureHandler answers POST /capture and POST /capture?keys=1: with a capture of the wire interface, until the request's
// body ends.
func captureHandler(src Source) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		rc := http.NewResponseController(w)
		// The answer begins while the request goes on, and both may take long.
		if err := errors.Join(rc.EnableFullDuplex(), rc.SetReadDeadline(time.Time{}), rc.SetWriteDeadline(time.Time{})); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		started := false
		begin := func() {
			started = true
			w.Header().Set("Content-Type", "application/x-pcapng")
			w.WriteHeader(http.StatusOK)
			go func() {
				_, _ = io.Copy(io.Discard, r.Body)
				cancel()
			}()
		}
		flush := func() error {
			// A reader that stands still holds no capture open for ever.
			return errors.Join(rc.SetWriteDeadline(time.Now().Add(requestTimeout)), rc.Flush())
		}
		err := src.Capture(ctx, w, r.URL.Query().Get("keys") == "1", begin, flush)
		if err != nil && !started {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	}
}

// Capture asks for POST /capture and saves packets to file and, if keys is not nil, keys to it, until ctx ends, limit
// packets (0: no limit) are there, or the daemon ends. started is called when nothing passes unseen any more.
func (c *Client) Capture(ctx context.Context, file, keys io.Writer, limit uint64, started func()) (capture.Result, error) {
	hold, stop := io.Pipe() // the request's body: its end is the end of the capture
	defer stop.Close()
	path := "http://innertun/capture"
	if keys != nil {
		path += "?keys=1"
	}
	// Only if the daemon does not end the capture itself the connection is cut.
	cut, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		stop.Close()
		time.AfterFunc(captureEndTime, cancel)
	})()
	req, err := http.NewRequestWithContext(cut, http.MethodPost, path, hold)
	if err != nil {
		return capture.Result{}, err
	}
	client := http.Client{Transport: c.http.Transport} // without the time-out
	resp, err := client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return capture.Result{}, nil
		}
		return capture.Result{}, c.unreached(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
		return capture.Result{}, fmt.Errorf("%s answers %s: %s", c.path, resp.Status, strings.TrimSpace(string(text)))
	}
	started()
	res, err := capture.Save(resp.Body, file, keys, limit, func() { stop.Close() })
	if cut.Err() != nil {
		err = nil
	}
	return res, err
}
