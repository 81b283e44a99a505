/*-------------------------------------------------------------------------
 *
 * bulk_pack.c
 *	  What workers have to know of a file, as one piece of memory.
 *
 * Both sides are the same library in the same server, so that structs travel
 * as they are.  Behind EtlBulkRead stand, one after the other: the path, the
 * null strings, the columns of the fields, the attributes of the table, and
 * the values of the columns that no field has.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_attribute.h"
#include "compat.h"
#include "lib/stringinfo.h"
#include "utils/datum.h"

#include "source/bulk_link.h"

/* Append what the worker needs; read->file is complete. */
void
etl_bulk_pack(StringInfo buf, const EtlBulkRead *read)
{
	const EtlBulkFile *file = &read->file;

	appendBinaryStringInfo(buf, (const char *) read, sizeof(EtlBulkRead));
	appendBinaryStringInfo(buf, file->info.path, strlen(file->info.path) + 1);
	for (int i = 0; i < file->dialect.null_count; i++)
		appendBinaryStringInfo(buf, file->dialect.null_strings[i],
							   strlen(file->dialect.null_strings[i]) + 1);
	appendBinaryStringInfo(buf, (const char *) file->attnums,
						   sizeof(AttrNumber) * file->nfields);
	for (int i = 0; i < read->natts; i++)
		appendBinaryStringInfo(buf, (const char *) TupleDescAttr(file->desc, i),
							   ATTRIBUTE_FIXED_PART_SIZE);
	for (int i = 0; i < read->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(file->desc, i);
		Size size = datumEstimateSpace(file->values[i], file->isnull[i],
									   att->attbyval, att->attlen);
		char *place;

		enlargeStringInfo(buf, size);
		place = buf->data + buf->len;
		datumSerialize(file->values[i], file->isnull[i], att->attbyval,
					   att->attlen, &place);
		buf->len += size;
	}
}

/* A string of the memory. */
static const char *
unpack_string(const char **place)
{
	const char *string = *place;

	*place += strlen(string) + 1;
	return string;
}

/* The attributes of the table. */
static TupleDesc
unpack_desc(const char **place, const EtlBulkRead *read)
{
	TupleDesc desc = CreateTemplateTupleDesc(read->natts);

	desc->tdtypeid = read->row_type;
	desc->tdtypmod = read->row_typmod;
	for (int i = 0; i < read->natts; i++)
	{
		memcpy(TupleDescAttr(desc, i), *place, ATTRIBUTE_FIXED_PART_SIZE);
		etl_init_attribute(desc, i);
		*place += ATTRIBUTE_FIXED_PART_SIZE;
	}
	return desc;
}

/* What was packed, in the current memory context; data is not needed then. */
EtlBulkRead *
etl_bulk_unpack(const char *data, Size len)
{
	char *copy = palloc(len);
	EtlBulkRead *read = palloc(sizeof(EtlBulkRead));
	EtlBulkFile *file = &read->file;
	const char *place = copy + sizeof(EtlBulkRead);
	AttrNumber *attnums;
	Datum *values;
	bool *isnull;

	if (len < sizeof(EtlBulkRead))
		elog(ERROR, "command to a worker is too short");
	memcpy(copy, data, len);
	memcpy(read, copy, sizeof(EtlBulkRead));

	file->info.path = unpack_string(&place);
	file->dialect.null_strings = palloc(sizeof(char *) *
										Max(file->dialect.null_count, 1));
	for (int i = 0; i < file->dialect.null_count; i++)
		file->dialect.null_strings[i] = unpack_string(&place);
	attnums = palloc(sizeof(AttrNumber) * Max(file->nfields, 1));
	memcpy(attnums, place, sizeof(AttrNumber) * file->nfields);
	place += sizeof(AttrNumber) * file->nfields;
	file->attnums = attnums;
	file->desc = unpack_desc(&place, read);
	file->values = values = palloc(sizeof(Datum) * Max(read->natts, 1));
	file->isnull = isnull = palloc(sizeof(bool) * Max(read->natts, 1));
	for (int i = 0; i < read->natts; i++)
		values[i] = datumRestore(unconstify(char **, &place), &isnull[i]);
	if (place != copy + len)
		elog(ERROR, "command to a worker is not well formed");
	return read;
}
