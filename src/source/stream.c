/*-------------------------------------------------------------------------
 *
 * stream.c
 *	  The bytes of one file, inflated where the file is compressed.
 *
 * A stream reads a regular file (or a piece of memory) once from its start
 * to its end in pieces of 256 KB.  The SHA-256 of what is stored on disk is
 * computed on the way, so that a load needs no second pass over the file to
 * know whether it has seen this content before.
 *
 * Invariants:
 *	- Each stored byte goes into the hash and into the byte count exactly
 *	  once, in file order, however often the stream is rewound.
 *	- Everything a stream holds lives in its own memory context; the file
 *	  descriptor and the hash are known to the transaction, so an error
 *	  anywhere gives all of it back.
 *	- Memory is bounded by the two 256 KB pieces and the window of the
 *	  decompressor (32 KB for gzip, at most 128 MB for zstd).
 *
 * No locks are taken.  A file that changes between etl_file_stat() and the
 * end of reading is noticed by etl_stream_close().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "source/source.h"

#include "common/cryptohash.h"
#include "common/sha2.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define STREAM_PIECE (256 * 1024)

struct EtlStream
{
	MemoryContext context; /* holds the stream itself */
	EtlFileInfo info;
	EtlCompression compression; /* never AUTO once open */
	int64 offset;				/* of the next byte handed out */

	/* a memory stream has only these */
	const char *memory;
	size_t memory_len;

	/* the file as it is stored */
	int fd;
	int64 raw_offset; /* of the next read(2) */
	int64 raw_seen;	  /* so many bytes are hashed and counted */
	pg_cryptohash_ctx *hash;
	char *in; /* stored bytes not yet consumed */
	size_t in_pos;
	size_t in_len;

	/* the decompressor */
	bool in_member; /* inside a gzip member or zstd frame */
	z_stream gzip;
	ZSTD_DCtx *zstd;
	MemoryContextCallback free_zstd;
};

/*
 * When a file was last modified, in microseconds.  A file can say anything; a
 * time that no timestamptz can hold is "infinity".
 */
TimestampTz
etl_file_modified_at(const struct stat *st)
{
	const int64 unix_day = (int64) UNIX_EPOCH_JDATE * SECS_PER_DAY;

	if (st->st_mtime < (int64) DATETIME_MIN_JULIAN * SECS_PER_DAY - unix_day)
		return DT_NOBEGIN;
	if (st->st_mtime >= (int64) TIMESTAMP_END_JULIAN * SECS_PER_DAY - unix_day)
		return DT_NOEND;
	return time_t_to_timestamptz(st->st_mtime) + st->st_mtim.tv_nsec / 1000;
}

/* Fill *info from what stat() said.  info->path is the caller's string. */
void
etl_file_info_set(EtlFileInfo *info, const char *path, const struct stat *st)
{
	info->path = path;
	info->device = (uint64) st->st_dev;
	info->inode = (uint64) st->st_ino;
	info->size_bytes = (int64) st->st_size;
	info->modified_at = etl_file_modified_at(st);
}

/* Throw unless *st is a regular file. */
static void
check_regular(const char *path, const struct stat *st)
{
	if (S_ISDIR(st->st_mode))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is a directory", path),
				 errhint("Name a file, or use a pattern such as \"%s/*.csv\".",
						 path)));
	if (!S_ISREG(st->st_mode))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a regular file", path),
				 errhint("Pipes, sockets and devices cannot be loaded.")));
}

/* Throw that the file is no longer what it was. */
static void
throw_changed(const char *path)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("file \"%s\" changed while it was read", path),
			 errhint(
				 "Load a file only after its writer has finished, for example by writing under another name and renaming it.")));
}

/*
 * Describe the file, or throw why it cannot be loaded: missing, a directory,
 * not a regular file, not readable.  info->path is the caller's string.
 */
void
etl_file_stat(const char *path, EtlFileInfo *info)
{
	struct stat st;

	if (stat(path, &st) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not stat file \"%s\": %m", path),
				 errhint(
					 "The path is looked up on the database server, as the operating system user that runs it.")));
	check_regular(path, &st);
	if (access(path, R_OK) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\" for reading: %m", path),
				 errhint(
					 "The operating system user that runs the server must be able to read the file.")));
	etl_file_info_set(info, path, &st);
}

/*
 * Open a regular file for reading, or throw.  If a pipe has taken its place
 * since etl_file_stat(), open(2) must not wait for a writer.
 */
static int
open_for_read(const char *path, struct stat *st)
{
	int fd = OpenTransientFile(path, O_RDONLY | O_NONBLOCK | PG_BINARY);

	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\" for reading: %m", path)));
	if (fstat(fd, st) != 0)
		ereport(ERROR, (errcode_for_file_access(),
						errmsg("could not stat file \"%s\": %m", path)));
	check_regular(path, st);
	return fd;
}

/* read(2) that answers to cancel; 0 at the end of the file. */
static size_t
read_piece(int fd, const char *path, char *buf, size_t len)
{
	ssize_t got;

	do
	{
		CHECK_FOR_INTERRUPTS();
		got = read(fd, buf, Min(len, (size_t) STREAM_PIECE));
	} while (got < 0 && errno == EINTR);
	if (got < 0)
		ereport(ERROR, (errcode_for_file_access(),
						errmsg("could not read file \"%s\": %m", path)));
	return (size_t) got;
}

/* A running SHA-256. */
static pg_cryptohash_ctx *
hash_start(void)
{
	pg_cryptohash_ctx *hash = pg_cryptohash_create(PG_SHA256);

	if (hash == NULL || pg_cryptohash_init(hash) < 0)
		elog(ERROR, "could not start SHA-256");
	return hash;
}

static void
hash_update(pg_cryptohash_ctx *hash, const char *data, size_t len)
{
	if (pg_cryptohash_update(hash, (const uint8 *) data, len) < 0)
		elog(ERROR, "could not compute SHA-256");
}

static void
hash_finish(pg_cryptohash_ctx *hash, uint8 *sha256)
{
	if (pg_cryptohash_final(hash, sha256, ETL_SHA256_LEN) < 0)
		elog(ERROR, "could not compute SHA-256");
}

/* SHA-256 of the file's stored bytes, in a pass of its own. */
void
etl_file_hash(const char *path, uint8 *sha256)
{
	struct stat st;
	int fd = open_for_read(path, &st);
	char *buf = palloc(STREAM_PIECE);
	pg_cryptohash_ctx *hash = hash_start();
	size_t got;

	while ((got = read_piece(fd, path, buf, STREAM_PIECE)) > 0)
		hash_update(hash, buf, got);
	hash_finish(hash, sha256);
	pg_cryptohash_free(hash);
	pfree(buf);
	CloseTransientFile(fd);
}

/* Stored bytes from where the file stands; counts and hashes the new ones. */
static size_t
raw_read(EtlStream *stream, char *buf, size_t len)
{
	size_t got = read_piece(stream->fd, stream->info.path, buf, len);
	int64 end = stream->raw_offset + (int64) got;

	if (end > stream->raw_seen && stream->hash != NULL)
	{
		size_t fresh = (size_t) (end - Max(stream->raw_seen, stream->raw_offset));

		hash_update(stream->hash, buf + got - fresh, fresh);
	}
	stream->raw_seen = Max(stream->raw_seen, end);
	stream->raw_offset = end;
	return got;
}

/* Go to a place in the stored file; what was read ahead is forgotten. */
static void
raw_seek(EtlStream *stream, int64 offset)
{
	if (lseek(stream->fd, (off_t) offset, SEEK_SET) < 0)
		ereport(ERROR, (errcode_for_file_access(),
						errmsg("could not seek in file \"%s\": %m",
							   stream->info.path)));
	stream->raw_offset = offset;
	stream->in_pos = stream->in_len = 0;
}

/* Make stored bytes available in stream->in; false at the end of the file. */
static bool
raw_fetch(EtlStream *stream)
{
	if (stream->in_pos < stream->in_len)
		return true;
	stream->in_pos = 0;
	stream->in_len = raw_read(stream, stream->in, STREAM_PIECE);
	return stream->in_len > 0;
}

/* Throw that the compressed data ends too early. */
static void
throw_truncated(EtlStream *stream, const char *format)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("file \"%s\" is truncated", stream->info.path),
			 errdetail("The %s data ends in the middle, after " INT64_FORMAT
					   " bytes.",
					   format, stream->raw_seen),
			 errhint("Transfer the file again.")));
}

/* Throw that the compressed data is damaged. */
static void
throw_corrupt(EtlStream *stream, const char *format, const char *why)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("file \"%s\" is corrupt", stream->info.path),
			 errdetail("The %s data cannot be decompressed: %s.", format,
					   why ? why : "unknown error"),
			 errhint(
				 "Transfer the file again, or check the compression option.")));
}

/* zlib's allocator: from the stream's memory context, never throwing. */
static voidpf
gzip_alloc(voidpf opaque, uInt items, uInt size)
{
	EtlStream *stream = (EtlStream *) opaque;

	return MemoryContextAllocExtended(stream->context, (Size) items * size,
									  MCXT_ALLOC_HUGE | MCXT_ALLOC_NO_OOM);
}

static void
gzip_free(voidpf opaque pg_attribute_unused(), voidpf address)
{
	pfree(address);
}

/* Does a gzip member start here?  Zeros after the last one are padding. */
static bool
gzip_member_starts(EtlStream *stream)
{
	while (raw_fetch(stream))
	{
		if (stream->in[stream->in_pos] != '\0')
			return true;
		stream->in_pos++;
	}
	return false;
}

/* Inflate into buf; 0 at the end of the last gzip member. */
static size_t
gzip_read(EtlStream *stream, char *buf, size_t len)
{
	z_stream *z = &stream->gzip;

	z->next_out = (Bytef *) buf;
	z->avail_out = (uInt) Min(len, (size_t) STREAM_PIECE);
	while ((char *) z->next_out == buf)
	{
		int rc;

		if (!stream->in_member)
		{
			if (!gzip_member_starts(stream))
				break;
			if (inflateReset(z) != Z_OK)
				elog(ERROR, "could not reset the inflater");
			stream->in_member = true;
		}
		if (!raw_fetch(stream))
			throw_truncated(stream, "gzip");
		z->next_in = (Bytef *) stream->in + stream->in_pos;
		z->avail_in = (uInt) (stream->in_len - stream->in_pos);
		rc = inflate(z, Z_NO_FLUSH);
		stream->in_pos = stream->in_len - z->avail_in;
		if (rc == Z_STREAM_END)
			stream->in_member = false;
		else if (rc == Z_MEM_ERROR)
			ereport(ERROR,
					(errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
		else if (rc != Z_OK && rc != Z_BUF_ERROR)
			throw_corrupt(stream, "gzip", z->msg);
		CHECK_FOR_INTERRUPTS();
	}
	return (size_t) ((char *) z->next_out - buf);
}

/* Decompress into buf; 0 at the end of the last zstd frame. */
static size_t
zstd_read(EtlStream *stream, char *buf, size_t len)
{
	ZSTD_outBuffer out = {buf, Min(len, (size_t) STREAM_PIECE), 0};

	while (out.pos == 0)
	{
		ZSTD_inBuffer in = {NULL, 0, 0};
		size_t rc;
		bool more = raw_fetch(stream);

		if (!more && !stream->in_member)
			break;
		in.src = stream->in;
		in.size = stream->in_len;
		in.pos = stream->in_pos;
		rc = ZSTD_decompressStream(stream->zstd, &out, &in);
		if (ZSTD_isError(rc))
			throw_corrupt(stream, "zstd", ZSTD_getErrorName(rc));
		stream->in_pos = in.pos;
		stream->in_member = (rc != 0);
		if (!more && rc != 0 && out.pos == 0)
			throw_truncated(stream, "zstd");
		CHECK_FOR_INTERRUPTS();
	}
	return out.pos;
}

/* Frees what zstd allocated, whenever the stream's context goes away. */
static void
zstd_free(void *arg)
{
	EtlStream *stream = (EtlStream *) arg;

	ZSTD_freeDCtx(stream->zstd);
	stream->zstd = NULL;
}

/* What the first bytes of the file say about its compression. */
static EtlCompression
detect_compression(EtlStream *stream)
{
	const unsigned char *in = (const unsigned char *) stream->in;

	if (!raw_fetch(stream))
		return ETL_COMPRESSION_NONE;
	if (stream->in_len >= 3 && in[0] == 0x1f && in[1] == 0x8b && in[2] == 8)
		return ETL_COMPRESSION_GZIP;
	if (stream->in_len >= 4 && in[0] == 0x28 && in[1] == 0xb5 &&
		in[2] == 0x2f && in[3] == 0xfd)
		return ETL_COMPRESSION_ZSTD;

	/* a frame to skip, as pzstd and others write first */
	if (stream->in_len >= 4 && (in[0] & 0xf0) == 0x50 && in[1] == 0x2a &&
		in[2] == 0x4d && in[3] == 0x18)
		return ETL_COMPRESSION_ZSTD;
	return ETL_COMPRESSION_NONE;
}

/* Set up the decompressor that the stream needs. */
static void
start_decompressor(EtlStream *stream)
{
	if (stream->compression == ETL_COMPRESSION_GZIP)
	{
		stream->gzip.zalloc = gzip_alloc;
		stream->gzip.zfree = gzip_free;
		stream->gzip.opaque = stream;
		if (inflateInit2(&stream->gzip, 15 + 16) != Z_OK)
			ereport(ERROR,
					(errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	}
	else if (stream->compression == ETL_COMPRESSION_ZSTD)
	{
		stream->zstd = ZSTD_createDCtx();
		if (stream->zstd == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
		stream->free_zstd.func = zstd_free;
		stream->free_zstd.arg = stream;
		MemoryContextRegisterResetCallback(stream->context, &stream->free_zstd);
	}

	/* a compressed file is never empty: there would be a header */
	stream->in_member = (stream->compression != ETL_COMPRESSION_NONE);
}

/* A stream with nothing open yet, in a context of its own. */
static EtlStream *
stream_create(void)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "etl stream",
												  ALLOCSET_SMALL_SIZES);
	EtlStream *stream = MemoryContextAllocZero(context, sizeof(EtlStream));

	stream->context = context;
	stream->fd = -1;
	stream->compression = ETL_COMPRESSION_NONE;
	return stream;
}

/* A stream over the file that *info describes. */
static EtlStream *
stream_open(const EtlFileInfo *info)
{
	EtlStream *stream = stream_create();
	struct stat st;

	stream->info = *info;
	stream->info.path = MemoryContextStrdup(stream->context, info->path);
	stream->in = MemoryContextAlloc(stream->context, STREAM_PIECE);
	stream->fd = open_for_read(stream->info.path, &st);
	if ((uint64) st.st_dev != info->device || (uint64) st.st_ino != info->inode)
		throw_changed(stream->info.path);
	return stream;
}

/*
 * Open the file that *info describes.  It is an error if another file stands
 * there by now.
 */
EtlStream *
etl_stream_open_file(const EtlFileInfo *info, EtlCompression compression)
{
	EtlStream *stream = stream_open(info);

	stream->hash = hash_start();
	stream->compression = compression == ETL_COMPRESSION_AUTO ?
							  detect_compression(stream) :
							  compression;
	start_decompressor(stream);
	return stream;
}

/*
 * The same for one of many readers of a plain file.  It goes to any place by
 * etl_stream_rewind(), and computes no hash.
 */
EtlStream *
etl_stream_open_part(const EtlFileInfo *info)
{
	EtlStream *stream = stream_open(info);

	stream->compression = ETL_COMPRESSION_NONE;
	return stream;
}

/* A stream over len bytes of memory, which must outlive it. */
EtlStream *
etl_stream_open_memory(const char *data, size_t len)
{
	EtlStream *stream = stream_create();

	stream->info.path = "memory";
	stream->memory = data ? data : "";
	stream->memory_len = len;
	return stream;
}

/*
 * Up to len bytes, at most a piece of 256 KB at a time; 0 only at the end of
 * the stream (or when len is 0).
 */
size_t
etl_stream_read(EtlStream *stream, char *buf, size_t len)
{
	size_t got;

	if (len == 0)
		return 0;
	if (stream->memory != NULL)
	{
		got = Min(len, stream->memory_len - (size_t) stream->offset);
		memcpy(buf, stream->memory + stream->offset, got);
	}
	else if (stream->compression == ETL_COMPRESSION_GZIP)
		got = gzip_read(stream, buf, len);
	else if (stream->compression == ETL_COMPRESSION_ZSTD)
		got = zstd_read(stream, buf, len);
	else if (stream->in_pos < stream->in_len)
	{
		got = Min(len, stream->in_len - stream->in_pos);
		memcpy(buf, stream->in + stream->in_pos, got);
		stream->in_pos += got;
	}
	else
		got = raw_read(stream, buf, len);
	stream->offset += (int64) got;
	return got;
}

/* Start again at the beginning of a compressed file. */
static void
restart_decompressor(EtlStream *stream)
{
	raw_seek(stream, 0);
	if (stream->compression == ETL_COMPRESSION_GZIP)
	{
		if (inflateReset(&stream->gzip) != Z_OK)
			elog(ERROR, "could not reset the inflater");
	}
	else
		ZSTD_DCtx_reset(stream->zstd, ZSTD_reset_session_only);
	stream->in_member = true;
	stream->offset = 0;
}

/*
 * Go on reading at the given offset of the (inflated) stream.  Cheap on a
 * plain file; a compressed one is inflated again from its start.
 */
void
etl_stream_rewind(EtlStream *stream, int64 offset)
{
	char *skip;

	if (offset == stream->offset)
		return;
	if (stream->memory != NULL)
	{
		Assert(offset >= 0 && (size_t) offset <= stream->memory_len);
		stream->offset = offset;
		return;
	}
	if (stream->compression == ETL_COMPRESSION_NONE &&
		(offset <= stream->raw_seen || stream->hash == NULL))
	{
		raw_seek(stream, offset);
		stream->offset = offset;
		return;
	}
	if (offset < stream->offset)
		restart_decompressor(stream);
	skip = palloc(STREAM_PIECE);
	while (stream->offset < offset &&
		   etl_stream_read(stream, skip,
						   (size_t) Min((int64) STREAM_PIECE,
										offset - stream->offset)) > 0)
		/* skip */;
	pfree(skip);
}

/* Is the file stored as it is read? */
bool
etl_stream_is_plain(const EtlStream *stream)
{
	return stream->fd >= 0 && stream->compression == ETL_COMPRESSION_NONE;
}

/* How the file is compressed; never ETL_COMPRESSION_AUTO. */
EtlCompression
etl_stream_compression(const EtlStream *stream)
{
	return stream->compression;
}

/*
 * Bytes of a plain file from anywhere, without moving the stream.  They have
 * been there before.
 */
void
etl_stream_read_at(EtlStream *stream, char *buf, size_t len, int64 offset)
{
	size_t done = 0;

	while (done < len)
	{
		ssize_t got;

		CHECK_FOR_INTERRUPTS();
		got = pread(stream->fd, buf + done,
					Min(len - done, (size_t) STREAM_PIECE),
					(off_t) (offset + (int64) done));
		if (got < 0 && errno != EINTR)
			ereport(ERROR, (errcode_for_file_access(),
							errmsg("could not read file \"%s\": %m",
								   stream->info.path)));
		if (got == 0)
			throw_changed(stream->info.path);
		done += Max(got, 0);
	}
}

/* Read a plain file up to there, for its hash alone. */
void
etl_stream_hash_to(EtlStream *stream, int64 offset)
{
	while (stream->raw_seen < offset &&
		   raw_read(stream, stream->in, STREAM_PIECE) > 0)
		/* hash */;
	stream->offset = stream->raw_offset;
	stream->in_pos = stream->in_len = 0;
}

/* How many stored bytes have been read so far: for progress and counts. */
int64
etl_stream_file_bytes(const EtlStream *stream)
{
	return stream->memory != NULL ? stream->offset : stream->raw_seen;
}

/* Throw if the file is not what it was. */
void
etl_stream_check(const EtlStream *stream)
{
	struct stat st;
	EtlFileInfo now;

	if (fstat(stream->fd, &st) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not stat file \"%s\": %m", stream->info.path)));
	etl_file_info_set(&now, stream->info.path, &st);
	if (now.size_bytes != stream->info.size_bytes ||
		now.modified_at != stream->info.modified_at)
		throw_changed(stream->info.path);
}

/* Read what is left of the file and check that it is still the same. */
static void
drain_and_check(EtlStream *stream)
{
	if (stream->raw_offset != stream->raw_seen)
		raw_seek(stream, stream->raw_seen);
	while (raw_read(stream, stream->in, STREAM_PIECE) > 0)
		/* hash the rest */;
	etl_stream_check(stream);
	if (stream->raw_seen != stream->info.size_bytes)
		throw_changed(stream->info.path);
}

/*
 * Close the stream and free it.  When sha256 is given, the rest of the file
 * is read, the hash of the stored bytes is put there, and it is an error if
 * the file changed since etl_file_stat().
 */
void
etl_stream_close(EtlStream *stream, uint8 *sha256)
{
	if (stream->memory != NULL && sha256 != NULL)
	{
		stream->hash = hash_start();
		hash_update(stream->hash, stream->memory, stream->memory_len);
	}
	if (stream->fd >= 0)
	{
		if (sha256 != NULL)
			drain_and_check(stream);
		CloseTransientFile(stream->fd);
	}
	if (stream->hash != NULL)
	{
		if (sha256 != NULL)
			hash_finish(stream->hash, sha256);
		pg_cryptohash_free(stream->hash);
	}
	MemoryContextDelete(stream->context);
}
