/*-------------------------------------------------------------------------
 *
 * change_queue.c
 *	  The stream of changes, through a queue in shared memory.
 *
 * A message is a batch of items; an item is a header and what its kind needs,
 * with everything in it aligned, so that the side that applies uses rows where
 * they lie in the message.  They are good until the next message is taken,
 * which is not before the next item is asked for.
 *
 * Both sides are the same library in the same server, so that structs travel
 * as they are.  What comes is checked all the same, as far as walking through
 * it goes: a message that is not well formed is an error, never a crash.
 *
 * Takes no locks; waits on the process's latch only.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "compat.h"
#include "source/change_event.h"

/* A message is sent when it has grown to this. */
#define BATCH_SIZE (128 * 1024)

/* A buffer that has grown beyond this for a large row is given back. */
#define MAX_KEPT_BUFFER (1024 * 1024)

typedef enum ItemKind
{
	ITEM_RELATION = 1,
	ITEM_BEGIN,
	ITEM_CHANGE,
	ITEM_COMMIT,
	ITEM_IDLE
} ItemKind;

/* In front of each item; the size counts it, and is aligned. */
typedef struct ItemHeader
{
	uint32 size;
	uint32 kind;
} ItemHeader;

/* BEGIN, COMMIT */
typedef struct XactItem
{
	ItemHeader header;
	EtlSourceXact xact;
} XactItem;

/* IDLE */
typedef struct IdleItem
{
	ItemHeader header;
	XLogRecPtr position;
} IdleItem;

/* One column of a RELATION. */
typedef struct ColumnItem
{
	FormData_pg_attribute attribute; /* its fixed part */
	bool is_key;
} ColumnItem;

/* RELATION: the columns follow. */
typedef struct RelationItem
{
	ItemHeader header;
	uint32 number;
	Oid relid;
	int32 natts;
	char identity;
	NameData schema;
	NameData name;
} RelationItem;

#define RELATION_COLUMNS_OFFSET MAXALIGN(sizeof(RelationItem))

/* CHANGE: old row, new row, and a bool per column follow, if they are there. */
typedef struct ChangeItem
{
	ItemHeader header;
	uint32 relation;
	uint8 kind;
	uint8 flags;
	uint8 obstacle;
	XLogRecPtr lsn;
	int64 ordinal;
	uint32 old_len; /* 0: there is none */
	uint32 new_len;
} ChangeItem;

#define CHANGE_ROWS_OFFSET MAXALIGN(sizeof(ChangeItem))

#define CHANGE_OLD_IS_KEY		 0x01
#define CHANGE_CASCADE			 0x02
#define CHANGE_RESTART_SEQUENCES 0x04
#define CHANGE_UNCHANGED		 0x08

struct EtlChangeWriter
{
	shm_mq_handle *queue;
	MemoryContext context;		/* the buffer's */
	MemoryContext item_context; /* of one item */
	char *buffer;
	Size used;
	Size size;
	bool detached; /* nobody takes items any more */
	void (*on_full)(void);
	void (*take)(void *arg, char *message, Size size); /* in its place */
	void *take_arg;
};

/* A description that has come, with all that it points to. */
typedef struct KnownRelation
{
	uint32 number; /* hash key */
	MemoryContext context;
	EtlSourceRelation *relation;
} KnownRelation;

struct EtlChangeReader
{
	shm_mq_handle *queue;
	MemoryContext context;
	HTAB *relations;
	char *message;
	Size len;
	Size offset; /* of the next item */
	bool in_xact;
	bool ended;
	EtlSourceXact xact;
	EtlChangeEvent event;
	HeapTupleData old_row;
	HeapTupleData new_row;
	XLogRecPtr position;
};

static void *append_item(EtlChangeWriter *writer, ItemKind kind, Size size);
static void free_buffer(EtlChangeWriter *writer);
static void make_room(EtlChangeWriter *writer, Size size);
static bool sent(EtlChangeWriter *writer);
static bool write_xact(EtlChangeWriter *writer, ItemKind kind,
					   const EtlSourceXact *xact);
static bool has_any(const bool *flags, int n);
static HeapTuple complete_row(const EtlChangeEvent *event, bool *unchanged);
static Datum complete_value(Datum value, bool *is_missing);
static void put_change(EtlChangeWriter *writer, const EtlChangeEvent *event,
					   HeapTuple new_row, const bool *unchanged);
static bool take_message(EtlChangeReader *reader, bool wait,
						 EtlStreamItem *nothing);
static ItemHeader *take_item(EtlChangeReader *reader);
static void take_relation(EtlChangeReader *reader, const RelationItem *item);
static EtlSourceRelation *read_relation(const RelationItem *item);
static void take_xact(EtlChangeReader *reader, const XactItem *item);
static void take_change(EtlChangeReader *reader, ChangeItem *item);
static HeapTuple take_row(HeapTuple row, const EtlSourceRelation *relation,
						  char *data, uint32 len);
pg_noreturn static void refuse_message(const char *what);

/* ------------------------------------------------------------------ */
/* the side that reads                                                  */

/* A writer, in the current memory context. */
EtlChangeWriter *
etl_change_writer_open(shm_mq_handle *queue)
{
	EtlChangeWriter *writer = palloc0(sizeof(EtlChangeWriter));

	writer->queue = queue;
	writer->context = CurrentMemoryContext;
	writer->item_context = AllocSetContextCreate(CurrentMemoryContext,
												 "etl_patterns change",
												 ALLOCSET_DEFAULT_SIZES);
	return writer;
}

/* What to do, again and again, while the queue is full; it is to wait. */
void
etl_change_writer_on_full(EtlChangeWriter *writer, void (*on_full)(void))
{
	writer->on_full = on_full;
}

void
etl_change_writer_divert(EtlChangeWriter *writer,
						 void (*take)(void *arg, char *message, Size size),
						 void *arg)
{
	writer->take = take;
	writer->take_arg = arg;
}

/* Forgets what was not flushed. */
void
etl_change_writer_close(EtlChangeWriter *writer)
{
	MemoryContextDelete(writer->item_context);
	if (writer->buffer != NULL)
		pfree(writer->buffer);
	pfree(writer);
}

/* Has everything been sent? */
bool
etl_change_writer_is_empty(EtlChangeWriter *writer)
{
	return writer->used == 0;
}

/* Sends what there is; waits while the queue is full. */
bool
etl_change_writer_flush(EtlChangeWriter *writer)
{
	shm_mq_result result = SHM_MQ_SUCCESS;

	if (writer->used == 0 || writer->detached)
		return !writer->detached;
	if (writer->take != NULL)
		writer->take(writer->take_arg, writer->buffer, writer->used);
	else
		while ((result = shm_mq_send(writer->queue, writer->used,
									 writer->buffer, writer->on_full != NULL,
									 true)) == SHM_MQ_WOULD_BLOCK)
			writer->on_full();
	if (result != SHM_MQ_SUCCESS)
		writer->detached = true;
	writer->used = 0;
	if (writer->size > MAX_KEPT_BUFFER)
		free_buffer(writer);
	return !writer->detached;
}

bool
etl_change_writer_rest(EtlChangeWriter *writer)
{
	bool taken = etl_change_writer_flush(writer);

	free_buffer(writer);
	return taken;
}

static void
free_buffer(EtlChangeWriter *writer)
{
	if (writer->buffer != NULL)
		pfree(writer->buffer);
	writer->buffer = NULL;
	writer->size = 0;
}

/*
 * Room for an item in the buffer, with its header, all else undefined.  Items that
 * are there already are sent first if the new one would make the message too
 * large, so that only a single large item makes a large message.
 */
static void *
append_item(EtlChangeWriter *writer, ItemKind kind, Size size)
{
	ItemHeader *header;

	size = MAXALIGN(size);
	if (size > MaxAllocSize)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("change of %zu bytes is too large to be applied",
							   size)));
	if (writer->used + size > BATCH_SIZE && writer->used > 0)
		(void) etl_change_writer_flush(writer);
	make_room(writer, size);

	header = (ItemHeader *) (writer->buffer + writer->used);
	writer->used += size;
	header->size = size;
	header->kind = kind;
	return header;
}

/* Make the buffer large enough for so many more bytes. */
static void
make_room(EtlChangeWriter *writer, Size size)
{
	Size needed = Max(writer->used + size, BATCH_SIZE);

	if (needed <= writer->size)
		return;
	if (writer->buffer == NULL)
		writer->buffer = MemoryContextAllocHuge(writer->context, needed);
	else
		writer->buffer = repalloc_huge(writer->buffer, needed);
	writer->size = needed;
}

/* After an item: send the message if it is large enough. */
static bool
sent(EtlChangeWriter *writer)
{
	if (writer->used >= BATCH_SIZE)
		return etl_change_writer_flush(writer);
	return !writer->detached;
}

bool
etl_change_write_begin(EtlChangeWriter *writer, const EtlSourceXact *xact)
{
	return write_xact(writer, ITEM_BEGIN, xact);
}

bool
etl_change_write_commit(EtlChangeWriter *writer, const EtlSourceXact *xact)
{
	return write_xact(writer, ITEM_COMMIT, xact);
}

static bool
write_xact(EtlChangeWriter *writer, ItemKind kind, const EtlSourceXact *xact)
{
	XactItem *item = append_item(writer, kind, sizeof(XactItem));

	item->xact = *xact;
	return sent(writer);
}

bool
etl_change_write_idle(EtlChangeWriter *writer, XLogRecPtr position)
{
	IdleItem *item = append_item(writer, ITEM_IDLE, sizeof(IdleItem));

	item->position = position;
	return sent(writer);
}

/* The description of a table. */
bool
etl_change_write_relation(EtlChangeWriter *writer,
						  const EtlSourceRelation *relation)
{
	int natts = relation->desc->natts;
	RelationItem *item;
	ColumnItem *columns;

	item = append_item(writer, ITEM_RELATION,
					   RELATION_COLUMNS_OFFSET + natts * sizeof(ColumnItem));
	item->number = relation->number;
	item->relid = relation->relid;
	item->natts = natts;
	item->identity = relation->identity;
	namestrcpy(&item->schema, relation->schema);
	namestrcpy(&item->name, relation->name);
	columns = (ColumnItem *) ((char *) item + RELATION_COLUMNS_OFFSET);
	for (int i = 0; i < natts; i++)
	{
		memcpy(&columns[i].attribute, TupleDescAttr(relation->desc, i),
			   ATTRIBUTE_FIXED_PART_SIZE);
		columns[i].is_key = relation->is_key[i];
	}
	return sent(writer);
}

/* One change; its relation has been described. */
bool
etl_change_write_event(EtlChangeWriter *writer, const EtlChangeEvent *event)
{
	int natts = event->relation->desc->natts;
	HeapTuple new_row = event->new_row;
	const bool *unchanged = event->unchanged;

	if (event->old_row != NULL && HeapTupleHasExternal(event->old_row))
		elog(ERROR, "old row of table \"%s\" has values out of line",
			 event->relation->name);
	if (new_row != NULL &&
		(HeapTupleHasExternal(new_row) || has_any(unchanged, natts)))
	{
		MemoryContext old = MemoryContextSwitchTo(writer->item_context);
		bool *missing = palloc0(natts * sizeof(bool));

		new_row = complete_row(event, missing);
		unchanged = has_any(missing, natts) ? missing : NULL;
		MemoryContextSwitchTo(old);
		put_change(writer, event, new_row, unchanged);
		MemoryContextReset(writer->item_context);
	}
	else
		put_change(writer, event, new_row, NULL);
	return sent(writer);
}

static bool
has_any(const bool *flags, int n)
{
	for (int i = 0; flags != NULL && i < n; i++)
	{
		if (flags[i])
			return true;
	}
	return false;
}

/*
 * The new row with all its values in line, and which of them are not known.
 * Those that the old row has are taken from there.
 */
static HeapTuple
complete_row(const EtlChangeEvent *event, bool *unchanged)
{
	const EtlSourceRelation *relation = event->relation;
	TupleDesc desc = relation->desc;
	Datum *values = palloc(desc->natts * sizeof(Datum));
	bool *nulls = palloc(desc->natts * sizeof(bool));
	Datum *old_values = palloc(desc->natts * sizeof(Datum));
	bool *old_nulls = palloc(desc->natts * sizeof(bool));

	heap_deform_tuple(event->new_row, desc, values, nulls);
	if (event->old_row != NULL)
		heap_deform_tuple(event->old_row, desc, old_values, old_nulls);
	for (int i = 0; i < desc->natts; i++)
	{
		bool is_missing = event->unchanged != NULL && event->unchanged[i];

		if (!is_missing && !nulls[i] && TupleDescAttr(desc, i)->attlen == -1)
			values[i] = complete_value(values[i], &is_missing);
		if (!is_missing)
			continue;
		if (event->old_row != NULL && (!event->old_is_key || relation->is_key[i]))
		{
			values[i] = old_values[i];
			nulls[i] = old_nulls[i];
		}
		else
		{
			nulls[i] = true;
			unchanged[i] = true;
		}
	}
	return heap_form_tuple(desc, values, nulls);
}

/* A value in line, compressed or not; or, if it is on disk, none. */
static Datum
complete_value(Datum value, bool *is_missing)
{
	struct varlena *varlena = (struct varlena *) DatumGetPointer(value);

	if (VARATT_IS_EXTERNAL_ONDISK(varlena))
	{
		*is_missing = true;
		return (Datum) 0;
	}
	if (VARATT_IS_EXTERNAL(varlena))
		return PointerGetDatum(detoast_external_attr(varlena));
	return value;
}

/* Copy a change into the buffer. */
static void
put_change(EtlChangeWriter *writer, const EtlChangeEvent *event,
		   HeapTuple new_row, const bool *unchanged)
{
	uint32 old_len = event->old_row != NULL ? event->old_row->t_len : 0;
	uint32 new_len = new_row != NULL ? new_row->t_len : 0;
	Size unchanged_len = unchanged != NULL ? event->relation->desc->natts : 0;
	ChangeItem *item;
	char *data;

	item = append_item(writer, ITEM_CHANGE,
					   CHANGE_ROWS_OFFSET + MAXALIGN((Size) old_len) +
						   MAXALIGN((Size) new_len) + unchanged_len);
	item->relation = event->relation->number;
	item->kind = event->kind;
	item->flags = (event->old_is_key ? CHANGE_OLD_IS_KEY : 0) |
				  (event->cascade ? CHANGE_CASCADE : 0) |
				  (event->restart_sequences ? CHANGE_RESTART_SEQUENCES : 0) |
				  (unchanged != NULL ? CHANGE_UNCHANGED : 0);
	item->obstacle = event->obstacle;
	item->lsn = event->lsn;
	item->ordinal = event->ordinal;
	item->old_len = old_len;
	item->new_len = new_len;

	data = (char *) item + CHANGE_ROWS_OFFSET;
	if (old_len > 0)
		memcpy(data, event->old_row->t_data, old_len);
	data += MAXALIGN((Size) old_len);
	if (new_len > 0)
		memcpy(data, new_row->t_data, new_len);
	data += MAXALIGN((Size) new_len);
	if (unchanged != NULL)
		memcpy(data, unchanged, unchanged_len);
}

/* A message that was diverted: there are changes in it, nothing else. */
bool
etl_change_write_copy(EtlChangeWriter *writer, char *message, Size size,
					  EtlChangeCopy *copy)
{
	for (Size offset = 0; offset < size;)
	{
		ChangeItem *item = (ChangeItem *) (message + offset);

		offset += item->header.size;
		if (item->header.kind != ITEM_CHANGE || offset > size)
			refuse_message("copy");
		if (!copy->is_wanted(copy->arg, (uint32) item->ordinal))
			continue;
		if (copy->ordinal == 0)
			(void) etl_change_write_begin(writer, copy->xact);
		item->ordinal = ++copy->ordinal;
		memcpy(append_item(writer, ITEM_CHANGE, item->header.size), item,
			   item->header.size);
		if (!sent(writer))
			return false;
	}
	return true;
}

/* ------------------------------------------------------------------ */
/* the side that applies                                                */

/* A reader, in the current memory context. */
EtlChangeReader *
etl_change_reader_open(shm_mq_handle *queue)
{
	EtlChangeReader *reader = palloc0(sizeof(EtlChangeReader));
	HASHCTL ctl = {0};

	reader->queue = queue;
	reader->context = AllocSetContextCreate(CurrentMemoryContext,
											"etl_patterns changes",
											ALLOCSET_DEFAULT_SIZES);
	ctl.keysize = sizeof(uint32);
	ctl.entrysize = sizeof(KnownRelation);
	ctl.hcxt = reader->context;
	reader->relations = hash_create("etl_patterns source relations", 64, &ctl,
									HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	return reader;
}

/* All that the reader has given out is gone. */
void
etl_change_reader_close(EtlChangeReader *reader)
{
	MemoryContextDelete(reader->context);
	pfree(reader);
}

/*
 * The next item.  Without waiting, NOTHING if there is none now: the latch of
 * the process is set when there is.
 */
EtlStreamItem
etl_change_reader_next(EtlChangeReader *reader, bool wait)
{
	for (;;)
	{
		ItemHeader *item;
		EtlStreamItem nothing;

		if (reader->offset >= reader->len &&
			!take_message(reader, wait, &nothing))
			return nothing;
		item = take_item(reader);
		switch (item->kind)
		{
			case ITEM_RELATION:
				take_relation(reader, (RelationItem *) item);
				break;
			case ITEM_BEGIN:
				take_xact(reader, (XactItem *) item);
				return ETL_STREAM_BEGIN;
			case ITEM_CHANGE:
				take_change(reader, (ChangeItem *) item);
				return ETL_STREAM_CHANGE;
			case ITEM_COMMIT:
				take_xact(reader, (XactItem *) item);
				reader->position = reader->xact.end_lsn;
				return ETL_STREAM_COMMIT;
			case ITEM_IDLE:
				if (item->size < sizeof(IdleItem) || reader->in_xact)
					refuse_message("position");
				reader->position = ((IdleItem *) item)->position;
				return ETL_STREAM_IDLE;
			default:
				refuse_message("kind of item");
		}
	}
}

/* The transaction that began last. */
const EtlSourceXact *
etl_change_reader_xact(EtlChangeReader *reader)
{
	return &reader->xact;
}

/* The change that was taken last. */
const EtlChangeEvent *
etl_change_reader_event(EtlChangeReader *reader)
{
	return &reader->event;
}

/* All up to here has been taken; 0 if nothing has. */
XLogRecPtr
etl_change_reader_position(EtlChangeReader *reader)
{
	return reader->position;
}

/* The next message, or why there is none. */
static bool
take_message(EtlChangeReader *reader, bool wait, EtlStreamItem *nothing)
{
	void *message;
	Size len;

	*nothing = ETL_STREAM_END;
	if (reader->ended)
		return false;
	switch (shm_mq_receive(reader->queue, &len, &message, !wait))
	{
		case SHM_MQ_SUCCESS:
			reader->message = message;
			reader->len = len;
			reader->offset = 0;
			return true;
		case SHM_MQ_WOULD_BLOCK:
			*nothing = ETL_STREAM_NOTHING;
			return false;
		default:
			reader->ended = true;
			return false;
	}
}

/* The next item of the message. */
static ItemHeader *
take_item(EtlChangeReader *reader)
{
	Size left = reader->len - reader->offset;
	ItemHeader *item = (ItemHeader *) (reader->message + reader->offset);

	if (left < sizeof(ItemHeader) || item->size < sizeof(ItemHeader) ||
		item->size > left || item->size != MAXALIGN(item->size))
		refuse_message("item");
	reader->offset += item->size;
	return item;
}

/* BEGIN and COMMIT, which alternate. */
static void
take_xact(EtlChangeReader *reader, const XactItem *item)
{
	bool begins = item->header.kind == ITEM_BEGIN;

	if (item->header.size < sizeof(XactItem) || reader->in_xact == begins)
		refuse_message("transaction");
	reader->xact = item->xact;
	reader->in_xact = begins;
}

/* Remember a description, in place of one with the same number. */
static void
take_relation(EtlChangeReader *reader, const RelationItem *item)
{
	MemoryContext context;
	MemoryContext old;
	EtlSourceRelation *relation;
	KnownRelation *known;
	bool found;

	if (item->header.size < RELATION_COLUMNS_OFFSET || item->natts < 0 ||
		item->natts > MaxTupleAttributeNumber ||
		item->header.size <
			RELATION_COLUMNS_OFFSET + item->natts * sizeof(ColumnItem))
		refuse_message("relation");

	context = AllocSetContextCreate(reader->context,
									"etl_patterns source relation",
									ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	relation = read_relation(item);
	MemoryContextSwitchTo(old);

	known = hash_search(reader->relations, &item->number, HASH_ENTER, &found);
	if (found)
		MemoryContextDelete(known->context);
	known->context = context;
	known->relation = relation;
}

/* A description, in the current memory context. */
static EtlSourceRelation *
read_relation(const RelationItem *item)
{
	EtlSourceRelation *relation = palloc0(sizeof(EtlSourceRelation));
	const ColumnItem *columns = (const ColumnItem *) ((const char *) item +
													  RELATION_COLUMNS_OFFSET);

	relation->number = item->number;
	relation->relid = item->relid;
	relation->identity = item->identity;
	relation->schema = pnstrdup(NameStr(item->schema), NAMEDATALEN - 1);
	relation->name = pnstrdup(NameStr(item->name), NAMEDATALEN - 1);
	relation->is_key = palloc(Max(item->natts, 1) * sizeof(bool));
	relation->desc = CreateTemplateTupleDesc(item->natts);
	for (int i = 0; i < item->natts; i++)
	{
		memcpy(TupleDescAttr(relation->desc, i), &columns[i].attribute,
			   ATTRIBUTE_FIXED_PART_SIZE);
		etl_init_attribute(relation->desc, i);
		relation->is_key[i] = columns[i].is_key;
	}
	return relation;
}

/* A change: its rows stay where they are in the message. */
static void
take_change(EtlChangeReader *reader, ChangeItem *item)
{
	EtlChangeEvent *event = &reader->event;
	KnownRelation *known;
	Size needed;
	char *data;

	if (item->header.size < CHANGE_ROWS_OFFSET || !reader->in_xact ||
		item->kind > ETL_EVENT_READ || item->obstacle > ETL_OBSTACLE_REWRITTEN)
		refuse_message("change");
	known = hash_search(reader->relations, &item->relation, HASH_FIND, NULL);
	if (known == NULL)
		refuse_message("number of a relation");
	needed = CHANGE_ROWS_OFFSET + MAXALIGN((Size) item->old_len) +
			 MAXALIGN((Size) item->new_len);
	if (item->flags & CHANGE_UNCHANGED)
		needed += known->relation->desc->natts;
	if (item->header.size < needed)
		refuse_message("change");

	event->kind = item->kind;
	event->relation = known->relation;
	event->lsn = item->lsn;
	event->ordinal = item->ordinal;
	data = (char *) item + CHANGE_ROWS_OFFSET;
	event->old_row = take_row(&reader->old_row, known->relation, data,
							  item->old_len);
	data += MAXALIGN((Size) item->old_len);
	event->new_row = take_row(&reader->new_row, known->relation, data,
							  item->new_len);
	data += MAXALIGN((Size) item->new_len);
	event->unchanged = item->flags & CHANGE_UNCHANGED ? (bool *) data : NULL;
	event->old_is_key = (item->flags & CHANGE_OLD_IS_KEY) != 0;
	event->cascade = (item->flags & CHANGE_CASCADE) != 0;
	event->restart_sequences = (item->flags & CHANGE_RESTART_SEQUENCES) != 0;
	event->obstacle = item->obstacle;
}

/* A row of a message as a tuple; NULL without one. */
static HeapTuple
take_row(HeapTuple row, const EtlSourceRelation *relation, char *data,
		 uint32 len)
{
	HeapTupleHeader header = (HeapTupleHeader) data;

	if (len == 0)
		return NULL;
	if (len < SizeofHeapTupleHeader || header->t_hoff < SizeofHeapTupleHeader ||
		header->t_hoff > len || header->t_hoff != MAXALIGN(header->t_hoff) ||
		HeapTupleHeaderGetNatts(header) > relation->desc->natts ||
		((header->t_infomask & HEAP_HASNULL) &&
		 header->t_hoff < SizeofHeapTupleHeader +
							  BITMAPLEN(HeapTupleHeaderGetNatts(header))))
		refuse_message("row");
	row->t_len = len;
	row->t_tableOid = relation->relid;
	ItemPointerSetInvalid(&row->t_self);
	row->t_data = header;
	return row;
}

static void
refuse_message(const char *what)
{
	elog(ERROR, "corrupt message in the queue of changes: invalid %s", what);
}
