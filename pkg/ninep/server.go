package ninep

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Defaults of Options.
const (
	DefaultFids      = 65536
	DefaultOpenFiles = 256
)

// Options are the limits of a server's sessions, and what to call when
// something worth telling happens. A zero field takes its default. The
// callbacks run on the goroutine that calls Handle and must be quick.
type Options struct {
	MaxMessage uint32 // bytes; MaxMessage by default, at least MinMessage
	MaxFids    int    // fids of one session; DefaultFids by default
	OpenFiles  int    // host files one session keeps open; DefaultOpenFiles by default

	// OnAttach is called when a client attaches to the tree.
	OnAttach func()
	// OnOpen is called when a client opens regular file n.
	OnOpen func(n Node)
	// OnError is called when the host refuses the data of regular file n; the
	// client is told EIO.
	OnError func(n Node, err error)
}

// Server serves one Tree, read-only, to any number of sessions.
type Server struct {
	tree  Tree
	opts  Options
	stats counters
}

// NewServer returns a server for tree.
func NewServer(tree Tree, opts Options) *Server {
	if opts.MaxMessage == 0 {
		opts.MaxMessage = MaxMessage
	}
	opts.MaxMessage = max(opts.MaxMessage, MinMessage)
	if opts.MaxFids == 0 {
		opts.MaxFids = DefaultFids
	}
	if opts.OpenFiles == 0 {
		opts.OpenFiles = DefaultOpenFiles
	}
	return &Server{tree: tree, opts: opts}
}

// MaxMessage returns the size in bytes of the largest message the server
// takes or gives.
func (s *Server) MaxMessage() uint32 { return s.opts.MaxMessage }

// ErrNoReply is returned by Handle for a request that cannot be answered at
// all: shorter than a message header, or without room for an Rlerror.
var ErrNoReply = errors.New("9P request cannot be answered")

// Session is one connection: its fids and its message size. Tversion resets
// it. Its methods are called by one goroutine at a time.
type Session struct {
	srv   *Server
	msize uint32 // largest message in bytes; 0 before Tversion
	fids  map[uint32]fid
	files fileCache

	req   Request
	reply reply
	entry reply        // one directory entry
	vec   []unix.Iovec // of the read under way
	resp  scatter      // where the reply goes
	room  int          // bytes of the reply that fit: in its buffers and in msize
}

// fid is what a fid number stands for.
type fid struct {
	node Node
	open bool
}

// NewSession returns a session that waits for its Tversion.
func (s *Server) NewSession() *Session {
	return &Session{srv: s, fids: make(map[uint32]fid), files: newFileCache(s.opts.OpenFiles)}
}

// Close forgets all fids and closes all host files. The session can be used
// again from Tversion on.
func (s *Session) Close() {
	clear(s.fids)
	s.files.closeAll()
	s.msize = 0
}

// Handle serves one T-message. req is the message, copied out of guest memory,
// exactly as long as it came. resp is where the reply goes: the writable
// buffers of the request in order, whatever their split. They are written
// only, never read. It returns the length of the reply in bytes, or ErrNoReply
// and has done nothing. It allocates nothing once the session has warmed up.
func (s *Session) Handle(req []byte, resp [][]byte) (written uint32, err error) {
	space := 0
	for _, buf := range resp {
		space += len(buf)
	}
	if len(req) < headerSize || space < lerrorSize {
		return 0, ErrNoReply
	}
	s.resp, s.room = scatter{bufs: resp}, space
	if s.msize != 0 {
		s.room = min(space, int(s.msize))
	}
	s.reply.begin()

	dataLen, errno := s.serve(req)
	answer := s.req.Type + 1
	if errno == 0 && len(s.reply.buf)+dataLen > s.room {
		errno = unix.EMSGSIZE
	}
	if errno != 0 {
		s.srv.stats.errors.Add(1)
		answer, dataLen = Rlerror, 0
		s.reply.begin()
		s.reply.u32(uint32(errno))
	}
	size := s.reply.finish(answer, s.req.Tag, dataLen)
	out := scatter{bufs: resp}
	out.write(s.reply.buf)
	s.resp = scatter{}
	return uint32(size), nil
}

// serve decodes and does one request. It leaves the fields of the answer in
// s.reply, and returns the number of data bytes it has put behind them.
func (s *Session) serve(req []byte) (dataLen int, errno unix.Errno) {
	r := &s.req
	err := r.Decode(req)
	s.srv.stats.count(r.Type)
	switch {
	case err == ErrUnknownMessage:
		return 0, unix.EOPNOTSUPP
	case err != nil:
		return 0, unix.EPROTO
	case r.Type == Tversion:
		return 0, s.version(r)
	case s.msize == 0:
		return 0, unix.EPROTO
	case len(req) > int(s.msize):
		return 0, unix.EMSGSIZE
	}
	switch r.Type {
	case Tauth:
		// A server that wants no authentication refuses the offer.
		return 0, unix.EOPNOTSUPP
	case Tattach:
		return 0, s.attach(r)
	case Tflush:
		// Requests are served one at a time, in order: the one to be flushed
		// has been answered.
		return 0, 0
	}

	f, ok := s.fids[r.Fid]
	if !ok {
		return 0, unix.EBADF
	}
	switch r.Type {
	case Twalk:
		return 0, s.walk(r, f)
	case Tgetattr:
		return 0, s.getattr(f)
	case Tlopen:
		return 0, s.lopen(r, f)
	case Tread:
		return s.read(r, f)
	case Treaddir:
		return s.readdir(r, f)
	case Treadlink:
		return 0, s.readlink(f)
	case Tstatfs:
		return 0, s.statfs()
	case Tclunk:
		delete(s.fids, r.Fid)
		return 0, 0
	case Tremove:
		// The fid is gone whether or not the file is.
		delete(s.fids, r.Fid)
		return 0, unix.EROFS
	case Txattrwalk:
		// "Not supported" rather than "no such attribute": callers such as ls
		// then stop asking, and Linux treats both alike everywhere else.
		return 0, unix.EOPNOTSUPP
	case Tfsync:
		return 0, 0
	case Tlock:
		return 0, s.lock(f)
	case Tgetlock:
		return 0, s.getlock(r, f)
	default:
		// Every message that is left would change the tree.
		return 0, unix.EROFS
	}
}

// version begins the session anew (Plan 9's version(5)).
func (s *Session) version(r *Request) unix.Errno {
	s.Close()
	if r.Message < MinMessage {
		return unix.EMSGSIZE
	}
	msize := min(r.Message, s.srv.opts.MaxMessage)
	s.reply.u32(msize)
	if string(r.Protocol) != Version {
		s.reply.string("unknown")
		return 0
	}
	s.msize = msize
	s.reply.string(Version)
	return 0
}

// attach makes a fid for the root. There is one tree and it has no owner, so
// any user will do, and "" and "/" name it.
func (s *Session) attach(r *Request) unix.Errno {
	if r.AuthFid != noFid {
		return unix.EBADF
	}
	if len(r.Path) != 0 && string(r.Path) != "/" {
		return unix.ENOENT
	}
	if errno := s.mayUse(r.Fid); errno != 0 {
		return errno
	}
	s.fids[r.Fid] = fid{node: Root}
	s.reply.qid(Directory, Root)
	if s.srv.opts.OnAttach != nil {
		s.srv.opts.OnAttach()
	}
	return 0
}

// mayUse says whether a new fid can be called number.
func (s *Session) mayUse(number uint32) unix.Errno {
	if number == noFid {
		return unix.EBADF
	}
	if _, taken := s.fids[number]; taken {
		return unix.EINVAL
	}
	if len(s.fids) >= s.srv.opts.MaxFids {
		return unix.ENFILE
	}
	return 0
}

// lock grants every lock. Linux takes a lock among its own processes before
// it asks the server, and no other machine sees this session's tree.
func (s *Session) lock(f fid) unix.Errno {
	if !f.open {
		return unix.EBADF
	}
	s.reply.u8(lockSuccess)
	return 0
}

// getlock says that nobody else holds the lock.
func (s *Session) getlock(r *Request, f fid) unix.Errno {
	if !f.open {
		return unix.EBADF
	}
	s.reply.u8(lockUnlock)
	s.reply.u64(r.LockStart)
	s.reply.u64(r.LockLength)
	s.reply.u32(r.LockProcess)
	s.reply.bytes(r.LockClient)
	return 0
}

// counters are a server's statistics as its sessions update them.
type counters struct {
	messages  [256]atomic.Uint64
	errors    atomic.Uint64
	readBytes atomic.Uint64
	hostOpens atomic.Uint64
}

func (c *counters) count(t MessageType) { c.messages[t].Add(1) }

// Stats is what a server has done so far, over all its sessions.
type Stats struct {
	Messages  map[MessageType]uint64 // requests by type, those that came
	Errors    uint64                 // requests answered with Rlerror
	ReadBytes uint64                 // bytes of file data sent
	HostOpens uint64                 // host files opened
}

// Stats returns the statistics. It is safe to call at any time.
func (s *Server) Stats() Stats {
	stats := Stats{
		Messages:  make(map[MessageType]uint64),
		Errors:    s.stats.errors.Load(),
		ReadBytes: s.stats.readBytes.Load(),
		HostOpens: s.stats.hostOpens.Load(),
	}
	for t := range s.stats.messages {
		if n := s.stats.messages[t].Load(); n != 0 {
			stats.Messages[MessageType(t)] = n
		}
	}
	return stats
}

// String returns the statistics on one line, the most frequent message first.
func (s Stats) String() string {
	types := make([]MessageType, 0, len(s.Messages))
	for t := range s.Messages {
		types = append(types, t)
	}
	slices.SortFunc(types, func(a, b MessageType) int {
		if s.Messages[a] != s.Messages[b] {
			if s.Messages[a] > s.Messages[b] {
				return -1
			}
			return 1
		}
		return int(a) - int(b)
	})
	var line strings.Builder
	for _, t := range types {
		fmt.Fprintf(&line, "%v %d, ", t, s.Messages[t])
	}
	fmt.Fprintf(&line, "errors %d, bytes read %d, host files opened %d", s.Errors, s.ReadBytes, s.HostOpens)
	return line.String()
}
